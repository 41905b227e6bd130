"""Who said it: requests are signed with the coordinator's key, answers verified with the enrolled key of their site.

Flower authenticates the line that an answer came through, not what is in it: a registered node could otherwise
answer in another's name. The register is read anew each time, so a site that is revoked is out at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, final

from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import signed_bytes
from fedrounds_common.signing import PublicKey, SigningKey


class Known(Protocol):
    """What is known of an enrolled site: an entry of the coordinator's register."""

    @property
    def key(self) -> PublicKey: ...

    @property
    def cases(self) -> int: ...

    @property
    def node_id(self) -> int | None: ...

    @property
    def revoked(self) -> bool: ...


@final
@dataclass(frozen=True)
class Keys:
    """`own`: the coordinator's key. `register`: the enrolled sites by name, as they are now."""

    own: SigningKey
    register: Callable[[], Mapping[str, Known]]

    def sign(self, header: str, buffer: bytes) -> bytes:
        return self.own.sign(signed_bytes(header, buffer))

    def check(self, header: str, buffer: bytes, signature: bytes, node: int | None = None) -> str:
        """The enrolled site that signed this message. Nothing else of the message was looked at.

        Args:
            node: Flower's node that it came from; None for a message read from our own disk.

        Raises:
            UpdateError: FR-R50 unsigned, FR-R51 of no enrolled site, FR-R52 of a revoked one, FR-R53 forged or
                changed, FR-R54 sent from another site's node.
        """
        if not signature:
            raise UpdateError("FR-R50", "an answer without a signature", wanted="one signed with the site's key")
        name = _named(header)
        entry = self.register().get(name)
        if entry is None:
            raise UpdateError("FR-R51", "an answer of a site that is not enrolled", wanted="an enrolled site")
        if entry.revoked:
            raise UpdateError("FR-R52", f"an answer of {name}, which was revoked", wanted="a site that may take part")
        if not entry.key.holds(signed_bytes(header, buffer), signature):
            raise UpdateError(
                "FR-R53", f"an answer that names {name} and is not signed with its key", wanted=entry.key.fingerprint
            )
        if node is not None and entry.node_id is not None and entry.node_id != node:
            raise UpdateError("FR-R54", f"{name} spoke through the node of another site", wanted="its own node")
        return name

    def enrolled(self) -> dict[str, int]:
        """The sites that may take part, with the most cases each may claim."""
        return {name: entry.cases for name, entry in sorted(self.register().items()) if not entry.revoked}

    def site_at(self, node: int) -> str:
        """The site that was registered with this node; "" if none was."""
        return next((name for name, entry in sorted(self.register().items()) if entry.node_id == node), "")


def _named(header: str) -> str:
    """The site that a message names, without believing it; "" if it names none."""
    try:
        name = json.loads(header)["site"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""
