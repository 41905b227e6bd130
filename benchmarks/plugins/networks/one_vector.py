"""A network that is nothing but its weights: one vector of 0.1 MB."""

from dataclasses import dataclass
from typing import final

from fedrounds_common.network import Network


@final
@dataclass(frozen=True)
class OneVector(Network):
    """It has no settings."""

    def build(self, dims, inputs, outputs):
        import workload

        return workload.vector()

    def divisor(self, dims):
        return 1
