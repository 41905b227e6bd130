"""Make a coordinator, and give it a new certificate."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from pydantic import ValidationError

from fedrounds_common.errors import UsageError
from fedrounds_common.signing import SigningKey
from fedrounds_server.coordinator.folder import (
    SUPERLINK_PORT,
    CoordinatorFolder,
    Settings,
    faults_of,
    host_port,
    kept_private,
    make_folders,
    read_settings,
    write_settings,
)
from fedrounds_server.coordinator.pki import Expiry, make_authority, renew_server
from fedrounds_server.coordinator.supervisor import supervisor_pid


def create(
    folder: CoordinatorFolder, address: str, name: str = "", bind: str = "", superlink_port: int = SUPERLINK_PORT,
    also: Sequence[str] = (),
) -> SigningKey:  # fmt: skip
    """A new coordinator's folder with everything that `start` needs; its signing key.

    Args:
        address: HOST:PORT that hospitals dial. bind: where the front listens; "" is every address, that port.
        also: other names or addresses of this machine, for the certificate.

    Raises:
        UsageError: FR-U61 the folder is there; FR-U62 an address is not HOST:PORT.
    """
    try:
        host, port = host_port(address)
        host_port(bind or address)
        settings = Settings(
            format=1,
            name=name or host,
            address=address,
            bind=bind or f"0.0.0.0:{port}",
            superlink_port=superlink_port,
        )
        names = [host_port(f"{one}:1")[0] for one in also]
    except ValueError as error:
        said = faults_of(error) if isinstance(error, ValidationError) else str(error)
        raise UsageError("FR-U62", said, wanted="fl.example.org:8443, or 10.0.0.1:8443") from error
    make_folders(folder)
    with kept_private():
        make_authority(folder.keys, settings.name, host, names)
        key = SigningKey.create()
        key.save(folder.signing_key)
        # last: with this file the folder is a coordinator's
        write_settings(folder, settings)
    folder.note("made", name=settings.name, address=address, fingerprint=key.public.fingerprint)
    return key


def renew(folder: CoordinatorFolder) -> tuple[Expiry, bool]:
    """A new server certificate of the same CA; and whether a front was told to show it."""
    settings = read_settings(folder)
    with kept_private():
        end = renew_server(folder.keys, host_port(settings.address)[0])
    folder.note("renewed", until=end.until.isoformat(timespec="seconds"))
    pid = supervisor_pid(folder)
    if pid is not None:
        os.kill(pid, signal.SIGHUP)
    return end, pid is not None
