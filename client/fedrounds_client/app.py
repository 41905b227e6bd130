"""The ClientApp: Flower's messages in, answers of `leaving.py` out. Everything is decided in `boundary.py`.

Where the launcher names a site's folder (`home` of the node config) this is a real hospital: the message
is answered apart, in a process that believes that folder and nothing of the coordinator's run configuration.
Elsewhere one machine plays the hospitals.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrounds_client.boundary import answer
from fedrounds_common.allocator import keep_freed_memory
from fedrounds_common.errors import RoundError, UpdateError, code_of, no_exit
from fedrounds_common.leaving import Ask
from fedrounds_common.wire import from_record, parts_of, record_of, signature_of

if TYPE_CHECKING:
    from fedrounds_client.permit import Permission
    from fedrounds_client.site import Site

keep_freed_memory()

OpenSite = Callable[[Context, Ask], "tuple[Site, Permission]"]


def client_app(open_site: OpenSite) -> ClientApp:
    """A ClientApp whose sites `open_site` opens; one function answers every kind of message."""
    app = ClientApp()

    def respond(message: Message, context: Context) -> Message:
        try:
            if home := context.node_config.get("home"):
                return _enrolled(message, Path(str(home)))
            ask = from_record(message.content)
            if not isinstance(ask, Ask):
                raise UpdateError("FR-R10", "a message that asks nothing", wanted="an Ask")
            with no_exit():
                site, permit = open_site(context, ask)
            return Message(record_of(*answer(ask, site, permit)), reply_to=message)
        except Exception as error:
            # Flower sends the text of what is raised here, and none of this site's may leave
            raise RoundError(code_of(error), "the site could not answer", do="its own log says why") from error

    app.train()(respond)
    app.evaluate()(respond)
    app.query()(respond)
    return app


def _enrolled(message: Message, home: Path) -> Message:
    from fedrounds_client.apart import answer_apart

    signed = answer_apart(*parts_of(message.content), signature_of(message.content), home)
    return Message(record_of(*signed), reply_to=message)


def _open(context: Context, ask: Ask) -> tuple[Site, Permission]:
    from fedrounds_client.rehearsed import open_rehearsed

    return open_rehearsed(context, ask)


app = client_app(_open)
