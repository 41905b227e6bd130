"""Run a command where no network is: `python tests/offline.py COMMAND [WORD ...]`.

The command gets a network namespace of its own with nothing but loopback, so nothing can get out.
And nothing may try: the kernel counts every attempt to reach an address without a route, by
whatever process and in whatever language, and one attempt is enough for status 90.

Exit status: the command's own; 90 if it or a child dialled out; 91 if namespaces are not permitted.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

DIALLED_OUT = 90
NOT_PERMITTED = 91

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h


def main(words: list[str]) -> int:
    if words[:1] == ["--inside"]:
        return inside(words[1:])
    for flags in ("-n", "-rn"):  # as root, or as root of a user namespace
        if _permitted(flags):
            return subprocess.run(
                ["unshare", flags, sys.executable, __file__, "--inside", *words], check=False
            ).returncode
    print("offline: network namespaces are not permitted here", file=sys.stderr)
    return NOT_PERMITTED


def _permitted(flags: str) -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", flags, "true"], capture_output=True, check=False).returncode == 0


def inside(words: list[str]) -> int:
    raise_loopback()
    before = attempts()
    status = subprocess.run(words, check=False).returncode
    tried = attempts() - before
    if tried:
        print(f"offline: {tried} attempts to reach the network", file=sys.stderr)
        return DIALLED_OUT
    return status


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, SIOCGIFFLAGS, asked)[:18])[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def attempts() -> int:
    """Packets and connections that found no route, IPv4 and IPv6, in this namespace so far."""
    rows = [line.split() for line in Path("/proc/net/snmp").read_text("ascii").splitlines() if line.startswith("Ip:")]
    four = int(dict(zip(*rows, strict=True))["OutNoRoutes"])
    file = Path("/proc/net/snmp6")
    six = dict(line.split() for line in file.read_text("ascii").splitlines()) if file.is_file() else {}
    return four + int(six.get("Ip6OutNoRoutes", 0))


if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    if len(sys.argv) < 2:
        sys.exit("usage: offline.py COMMAND [WORD ...]")
    sys.exit(main(sys.argv[1:]))
