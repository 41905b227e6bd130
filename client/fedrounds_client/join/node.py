"""Flower's SuperNode in a process of its own, with our key, our CA, our node config, and our list of bundles.

    python -m fedrounds_client.join.node HOME LAUNCHER

It ends with its launcher, whose number it is told: one that asked who its parent is would not learn that the launcher
was killed before it could ask, and two nodes of one site would take each other's place for ever.

Flower is started as its own command starts it, with what it fetches bundles and sends answers by, and what says
that a bundle may run, wrapped (`guard`). A bundle that may not is answered with Flower's own error, so
the coordinator sees this site as failed in that round, and its bytes are neither installed nor opened.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.exit import add_exit_handler
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode import start_client_internal as supernode
from flwr.supernode.cli.flower_supernode import SuperNodeLifespanConfig, _start_supernode_http_api
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.nodestate import NodeStateFactory
from httpx import HTTPError, Response

from fedrounds_client.home import SiteHome
from fedrounds_client.jail import die_with
from fedrounds_client.join import outgoing
from fedrounds_client.join.bundle import check_bundle
from fedrounds_client.journal import note_once
from fedrounds_common.disk import add_text, write_text
from fedrounds_common.errors import NetworkError, RefusedError

# exit statuses by which the launcher learns what Flower only writes into its log
NODE = "node"  # in flwr/: the number of a node that has not said goodbye yet
LEFT, AWAY_S = "left", 15.0  # in flwr/: when the last node said goodbye; for so long no other says hello
GAVE_UP, NOT_KNOWN, OTHER_VERSION, HELPER_ENDED = 1, 81, 82, 83
ACTIVATE = "/ActivateNode"  # its "precondition failed": no node with that key is registered
VERSION_HEADER = "flwr-version-incompatibility-message"
ALLOWED = {"valid_license": "on the list of this site"}  # what Flower looks for before it asks `_verify_fab`


def moved() -> tuple[str, ...]:
    """The functions of Flower's that `guard` wraps and this Flower has not."""
    return tuple(name for name in ("_init_connection", "_verify_fab") if not callable(getattr(supernode, name, None)))


def guard(home: Path) -> None:
    """Let only bundles of `bundle.py` in and errors of `outgoing.py` out, and mark the moment of connecting.

    Raises:
        AttributeError: Flower's functions have moved.
    """
    if lost := moved():
        raise AttributeError(f"another Flower than the one that was tried: it has no {', '.join(lost)}")
    connect = supernode._init_connection

    @contextmanager
    def connect_guarded(*args: Any, **kwargs: Any) -> Iterator[tuple[Any, ...]]:
        with connect(*args, **kwargs) as connection:
            number, receive, send, get_run, get_fab, pull, push, confirm = connection
            flwr = SiteHome(home).flwr
            write_text(flwr / NODE, str(number))
            flwr.joinpath("connected").touch()
            says = outgoing.without_texts(send, push)
            yield number, receive, says, get_run, _checked(get_fab, home), pull, push, confirm
        (flwr / NODE).unlink(missing_ok=True)
        (flwr / LEFT).touch()

    supernode._init_connection = connect_guarded
    supernode._verify_fab = lambda fab, trusted_entities: fab.verifications == ALLOWED


def _checked(get_fab: Callable[[str, int], Any], home: Path) -> Callable[[str, int], Any]:
    def get_checked(fab_hash: str, run_id: int) -> Any:
        fab = get_fab(fab_hash, run_id)
        try:
            check_bundle(fab.content, fab_hash)
        except RefusedError as error:
            add_text(home / "log", str(error))
            note_once(SiteHome(home), "bundle refused", code=error.code, why=error.found, what=error.where)
            return type(fab)(fab.hash_str, b"", {})
        return type(fab)(fab.hash_str, fab.content, dict(ALLOWED))

    return get_checked


def sign_off(home: SiteHome, settings: SuperNodeLifespanConfig) -> None:
    """Say goodbye for a node that was killed: else SuperLink takes it for present, and lets no other in for a minute."""
    file = home.flwr / NODE
    if not file.is_file() or settings.authentication_keys is None:
        return
    version = RuntimeVersionHttpInterceptor("SuperNode")
    try:
        with FleetHttpClient.from_server_address(
            settings.server_address,
            False,
            settings.root_certificates,
            [version, NodeAuthHttpInterceptor(*settings.authentication_keys)],
        ) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=int(file.read_text())))
    except (HTTPError, RuntimeError, ValueError, OSError):
        return  # then the minute passes
    file.unlink(missing_ok=True)
    home.flwr.joinpath(LEFT).touch()


def stay_away(
    home: SiteHome, sleep: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.time
) -> None:
    """Not be back before the coordinator can have seen that this node was away.

    What a node was asked and had not answered is forgotten with it, and Flower does not ask again: the
    coordinator does, but only of a node that it saw away. Else it would wait until the deadline.
    """
    mark = home.flwr / LEFT
    if mark.is_file():
        sleep(min(max(mark.stat().st_mtime + AWAY_S - now(), 0.0), AWAY_S))
        mark.unlink(missing_ok=True)


def watch_answers() -> None:
    """End this process when SuperLink does not know this node, or runs another Flower."""
    intercept = NodeAuthHttpInterceptor.intercept

    def intercept_watched(self: Any, context: ProtobufRequestContext, call_next: ProtobufCall) -> Response:
        response = intercept(self, context, call_next)
        if response.status_code == 401 or (response.status_code == 412 and context.rpc_method.endswith(ACTIVATE)):
            os._exit(NOT_KNOWN)
        if VERSION_HEADER in response.headers:
            os._exit(OTHER_VERSION)
        return response

    NodeAuthHttpInterceptor.intercept = intercept_watched  # type: ignore[method-assign]


def watch_helper(pause_s: float = 1.0) -> None:
    """End this process when the helper that it starts has ended: Flower does not look, and nothing would be answered."""

    def watch() -> None:
        while not _ended_child():
            time.sleep(pause_s)
        os._exit(HELPER_ENDED)

    threading.Thread(target=watch, daemon=True).start()


def _ended_child() -> bool:
    """Whether a child of this process has ended; it stays one until somebody takes note."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False  # none was started yet


def read_node_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """Raises NetworkError FR-C91: there is no such key, or one of another kind."""
    try:
        key = load_ssh_private_key(file.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise NetworkError(
            "FR-C91", f"a node key that cannot be read ({type(error).__name__})", wanted="EC P-384", where=str(file)
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise NetworkError("FR-C91", "a node key of another kind", wanted="EC P-384", where=str(file))
    return key


def settings_of(home: SiteHome) -> SuperNodeLifespanConfig:
    """As Flower's own command would make them of its options; nothing of them comes from the study."""
    invitation, key = home.read_invitation(), read_node_key(home.node_key)
    return SuperNodeLifespanConfig(
        server_address=str(invitation["address"]), root_certificates=str(invitation["ca"]).encode(), insecure=False,
        authentication_keys=(key, key.public_key()), max_retries=None, max_wait_time=None,
        node_config={"site": home.read_settings().name, "home": str(home.folder)},
        isolation="subprocess", runtime_certificates=None, runtime_root_certificates_path=None,
        health_server_address=None, trusted_entities={"fedrounds": "its own list"}, superexec_auth_secret=None,
        runtime_dependency_install=False, host="127.0.0.1", port=_free_port(), runtime_ssl_certfile=None,
        runtime_ssl_keyfile=None,
    )  # fmt: skip


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def serve(home: SiteHome) -> None:
    """Run the SuperNode until it is ended or gives up."""
    settings = settings_of(home)
    sign_off(home, settings)
    stay_away(home)
    guard(home.folder)
    watch_answers()
    watch_helper()
    states = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    server, thread = _start_supernode_http_api(settings, states)

    def stop() -> None:
        server.should_exit = True
        thread.join(timeout=5)

    add_exit_handler(stop)
    supernode.start_client_internal(
        state_factory=states, server_address=settings.server_address, node_config=settings.node_config,
        root_certificates=settings.root_certificates, insecure=False, authentication_keys=settings.authentication_keys,
        isolation=settings.isolation, runtime_api_address=f"{settings.host}:{settings.port}",
        trusted_entities=settings.trusted_entities, runtime_dependency_install=False,
    )  # fmt: skip


def to_the_end(work: Callable[[], None]) -> NoReturn:
    """Do it and end this process, however it ends: a thread of Flower's would keep it for ever, online and deaf.

    So it was after a certificate that could not be believed, on which Flower gives up at once.
    """
    try:
        work()
    except Exception:  # noqa: BLE001  (whatever it was, the launcher starts another; node.log has the text)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(GAVE_UP)


def main(arguments: list[str]) -> NoReturn:
    os.umask(0o077)
    die_with(int(arguments[1]), signal.SIGTERM)
    to_the_end(lambda: serve(SiteHome(Path(arguments[0]).resolve())))


if __name__ == "__main__":
    main(sys.argv[1:])
