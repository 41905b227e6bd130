"""Who is waited for and why, in words for whoever looks at a run that does not go on."""

from __future__ import annotations

_WORDS = {
    "absent": "not there",
    "late": "has not answered yet",
    "refused:FR-C02": "has not permitted the study yet",
    "refused:FR-C05": "is paused",
    "refused:FR-C06": "has left",
    "refused:FR-C08": "has to permit it again: its policy changed",
    "refused:FR-C09": "has to permit it again: its permit has ended",
    "refused:FR-C10": "has to permit more rounds",
    "refused:FR-C17": "is outside its hours",
    "refused:FR-C21": "said no",
    "error:FR-R03": "its answer was lost",
}


def in_words(state: str) -> str:
    """A site's state as the history has it, for a person; its code stays in it."""
    words, (_, _, code) = _WORDS.get(state), state.partition(":")
    if words is None:
        return state
    return f"{words} ({code})" if code else words
