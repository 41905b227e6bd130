"""One line that counts cases while they are read and predicted, on a terminal; the answer names the bad ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


@final
class Steps:
    """Listens to "case" events: number, of, case, site, state."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status: Status | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.status = self.console.status("starting …")
            self.status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status is not None:
            self.status.stop()

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        if event == "case" and self.status is not None:
            self.status.update(f"case {facts['number']} of {facts['of']}")
