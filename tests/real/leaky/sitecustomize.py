"""What a hospital runs whose software fails with a patient's name in its hands. `FEDROUNDS_LEAKS`: how, and the name.

ours     training raises, prints and logs the name, later the bundle cannot be unpacked; it has to stay here
flower   our two layers are taken away: Flower's own way with an exception, which sends its text
"""

from __future__ import annotations

import base64
import importlib.abc
import importlib.machinery
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import quote

HOW, _, NAME = os.environ.get("FEDROUNDS_LEAKS", "::").partition(":")
FLAG = "no-install"  # a file in the site's folder: from now on no bundle can be unpacked


def said() -> str:
    written = [
        NAME,
        NAME.encode().hex(),
        base64.b64encode(NAME.encode()).decode(),
        quote(NAME),
        ascii(NAME),
        NAME[::-1],
    ]
    return f"/pacs/{NAME}/scan.dcm {' '.join(written)}"


def fail(round_: int) -> NoReturn:
    from fedrounds_common.errors import DataError

    text = said()
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)
    logging.getLogger("flwr").error(text)
    errors: list[Exception] = [
        FileNotFoundError(2, "No such file", text),
        DataError(NAME, text),  # a name in the place of the code
        type(quote(NAME), (Exception,), {})(text),  # and in that of the class
    ]
    raise errors[(round_ - 1) % len(errors)]


def raise_in_training(rounds: ModuleType) -> None:
    def take_part(ask: Any, site: Any) -> NoReturn:
        if ask.round == 3:
            (site.books / FLAG).touch()
        fail(ask.round)

    rounds.take_part = take_part


def raise_before_we_are_asked(runtime: ModuleType) -> None:
    install = runtime.install_from_fab

    def unpack(*args: Any, **named: Any) -> Any:
        if (Path(os.environ["FLWR_HOME"]).parent / FLAG).exists():
            raise OSError(28, "No space left on device", said())
        return install(*args, **named)

    runtime.install_from_fab = unpack


def raise_to_flower(app: ModuleType) -> None:
    from flwr.clientapp import ClientApp

    def honest(message: Any, context: Any) -> Any:
        return app._enrolled(message, Path(str(context.node_config["home"])))

    def raises(message: Any, context: Any) -> NoReturn:
        fail(1)

    app.app = ClientApp()
    app.app.query()(honest)
    app.app.evaluate()(honest)
    app.app.train()(raises)


def let_texts_out(outgoing: ModuleType) -> None:
    outgoing.without_texts = lambda send, push: send


CHANGES: dict[str, dict[str, Callable[[ModuleType], None]]] = {
    "ours": {
        "fedrounds_client.rounds": raise_in_training,
        "flwr.supernode.runtime.run_clientapp": raise_before_we_are_asked,
    },
    "flower": {"fedrounds_client.app": raise_to_flower, "fedrounds_client.join.outgoing": let_texts_out},
}


class Changed(importlib.abc.MetaPathFinder):
    """Finds modules as Python does, and changes those of `CHANGES` once they are read."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        change = CHANGES.get(HOW, {}).get(fullname)
        if change is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        loader: Any = spec.loader
        read = loader.exec_module

        def read_changed(module: ModuleType) -> None:
            read(module)
            change(module)

        loader.exec_module = read_changed
        return spec


sys.meta_path.insert(0, Changed())
