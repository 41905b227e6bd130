"""The listening socket and who is inside: counted by address before TLS is spoken, so that refusing costs little.

A refused caller gets a TCP reset, not an orderly end: a SuperNode takes an end in the middle of a TLS handshake
for a wrong certificate and gives up, and a reset for a line that failed, and tries again.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter, OrderedDict
from typing import Any, final

from fedrounds_server.front.rates import Buckets, place_of
from fedrounds_server.front.refusals import RefusalLog, Refused
from fedrounds_server.front.settings import Limits

Peer = tuple[str, int]
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing drops what is queued and sends a reset
AT_ONCE = 64  # callers sent away in one go, before those who are inside get their turn


@final
class Visitor(socket.socket):
    """One accepted connection. `spoke`: its TLS handshake is done; `known`: an enrolled site calls through it."""

    guests: Guests | None = None
    peer: Peer = ("", 0)
    spoke: bool = False
    known: bool = False

    def send_away(self) -> None:
        """Have the event loop close it: reading ends, and closing it sends a reset."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.shutdown(socket.SHUT_RD)

    def reset(self) -> None:
        self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        if self.guests is not None:
            self.guests.leave(self)
            self.guests = None
        super().close()


@final
class Guests:
    """Everybody inside, in the order in which they came."""

    def __init__(self, limits: Limits, log: RefusalLog) -> None:
        self._limits, self._log = limits, log
        self.rates = Buckets(limits.requests_per_minute, limits.requests_per_minute)
        self._inside: OrderedDict[Peer, Visitor] = OrderedDict()
        self._places: Counter[str] = Counter()
        self.came = 0  # who was ever let in

    def __len__(self) -> int:
        return len(self._inside)

    def admit(self, visitor: Visitor) -> bool:
        place = place_of(visitor.peer[0])
        if not self.rates.take(place):
            return self._refuse(visitor, "FR-C44", "too many connections and requests a minute")
        if self._places[place] >= self._limits.per_ip_connections:
            return self._refuse(visitor, "FR-C43", f"{self._places[place]} connections are open from this address")
        if len(self._inside) >= self._limits.connections and not self._make_room():
            return self._refuse(visitor, "FR-C43", f"{len(self._inside)} connections of enrolled sites are open")
        self._inside[visitor.peer] = visitor
        self._places[place] += 1
        self.came += 1
        visitor.guests = self
        return True

    def leave(self, visitor: Visitor) -> None:
        if self._inside.get(visitor.peer) is not visitor:
            return
        del self._inside[visitor.peer]
        place = place_of(visitor.peer[0])
        self._places[place] -= 1
        if not self._places[place]:
            del self._places[place]
        if not visitor.spoke:
            self._log.refused(Refused("FR-C53", 0, "left without agreeing on TLS 1.2 or newer"), visitor.peer[0])

    def spoke(self, peer: Peer) -> None:
        if visitor := self._inside.get(peer):
            visitor.spoke = True

    def known(self, peer: Peer) -> None:
        """An enrolled site calls through this connection: it is not sent away to make room."""
        if visitor := self._inside.get(peer):
            visitor.known = True

    def _make_room(self) -> bool:
        for visitor in self._inside.values():
            if not visitor.known:
                self._log.refused(Refused("FR-C43", 0, "sent away to make room for another"), visitor.peer[0])
                visitor.spoke = True  # said already
                self.leave(visitor)
                visitor.send_away()
                return True
        return False

    def _refuse(self, visitor: Visitor, code: str, why: str) -> bool:
        self._log.refused(Refused(code, 0, why), visitor.peer[0])
        return False


@final
class Entrance(socket.socket):
    """The listening socket, whose `accept` hands out admitted visitors only."""

    guests: Guests

    def accept(self) -> tuple[socket.socket, Any]:
        for _ in range(AT_ONCE):
            connection, address = super().accept()
            visitor = Visitor(fileno=connection.detach())
            visitor.peer = (str(address[0]), int(address[1]))
            if self.guests.admit(visitor):
                return visitor, address
            visitor.reset()
        raise BlockingIOError  # asyncio comes back at once if more are waiting


def open_entrance(host: str, port: int, guests: Guests) -> Entrance:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    entrance = Entrance(family, socket.SOCK_STREAM)
    entrance.guests = guests
    entrance.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    entrance.bind((host, port))
    entrance.setblocking(False)
    return entrance
