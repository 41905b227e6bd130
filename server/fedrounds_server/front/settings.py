"""`[limits]` of coordinator.toml: what one hospital, one address and all of them together may ask of the front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

from pydantic import ConfigDict, Field

from fedrounds_common.errors import UsageError
from fedrounds_common.plugins import STRICT, validate

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MB = 1_000_000


@final
@dataclass(frozen=True)
class Limits:
    """Every limit has a default that serves 30 hospitals with models of up to 2 GB.

    max_body_mb: one object; Flower cuts arrays into pieces of 5.24 MB, so this need not grow with the model.
    max_objects: objects that one answer may announce; with max_body_mb it bounds one answer's size.
    connections, per_ip_connections: open at once; each costs about 0.2 MB of memory.
    requests_per_minute, enrolments_per_minute: of one address; a connection counts as a request.
    per_site_requests: of one enrolled site at once.
    header_seconds: for the TLS handshake, and again for a request's head.
    body_seconds, slowest_kb_per_s: waiting for a body may take that long and its bytes over that rate.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    max_body_mb: Positive = 8.0
    max_objects: Count = 512
    connections: Count = 256
    per_ip_connections: Count = 32
    requests_per_minute: Count = 1200
    enrolments_per_minute: Count = 60
    per_site_requests: Count = 16
    header_seconds: Positive = 10.0
    body_seconds: Positive = 20.0
    slowest_kb_per_s: Positive = 16.0

    @property
    def max_body(self) -> int:
        """Bytes."""
        return int(self.max_body_mb * MB)

    @property
    def slowest(self) -> float:
        """Bytes a second."""
        return self.slowest_kb_per_s * 1000


def limits_of(table: Mapping[str, float]) -> Limits:
    """The table as limits.

    Raises:
        UsageError: FR-C40, every fault at once.
    """
    # a reader of the whole file may have made every number a float: 64.0 is a count too
    whole = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in table.items()
    }
    limits, faults = validate(Limits, whole, "limits")
    if limits is None:
        raise UsageError(
            "FR-C40", "; ".join(f"{fault.key}: {fault.message}" for fault in faults), wanted="limits that the front knows",
            do="mend them in coordinator.toml, or leave them out", where="coordinator.toml",
        )  # fmt: skip
    return limits
