"""What several deployments are held against: the command line itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
import pytest
import typer

Accepts = Callable[[Sequence[str]], None]


@pytest.fixture(scope="session")
def accepts() -> Accepts:
    """Raise click's error unless `fedrounds` takes these words; nothing of the command is run."""
    from fedrounds.cli.main import app

    def accept(words: Sequence[str]) -> None:
        assert words[0] == "fedrounds", words
        command, rest, context = typer.main.get_command(app), list(words[1:]), click.Context(click.Command("fedrounds"))
        while isinstance(command, click.Group):
            name, found, rest = command.resolve_command(context, rest)
            assert found is not None, f"no verb {name}"
            command = found
        command.make_context("fedrounds", rest, help_option_names=["-h", "--help"])

    return accept
