"""The consensus on its way to the sites: to each in the shortest form that it can read.

What a site holds is known by its digest only: from its hello, and from each answer it gave to what it was sent. To who
holds what the last round sent goes the difference from that, to who holds nothing yet what opens the row, and to all
others the whole. A site that holds something else after all says so, and is sent the whole.

What was sent is on disk before anybody is asked, for as many rounds as there are checkpoints to go back to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from fedrounds_common.arrays import Arrays, digest
from fedrounds_common.codec import Codec
from fedrounds_common.disk import remove_file, settle, write_whole
from fedrounds_common.downwards import Form, pack_down, pack_half
from fedrounds_common.errors import RunFileError
from fedrounds_common.leaving import Ask, Hello
from fedrounds_common.numbered import number_of
from fedrounds_common.rng import derive
from fedrounds_server.checkpoint import KEPT, arrays_file, load_arrays
from fedrounds_server.cohort import Roster

FORMAT = 1


@final
@dataclass(frozen=True)
class Sent:
    """The consensus of one round: `arrays`, as every site has them that received it, and their digest.

    `coded`: what travels, by `form`, and of a difference the digest of what it is from.
    """

    arrays: Arrays
    holds: str = ""
    round: int = 0
    form: Form = ""
    coded: Arrays = field(default_factory=dict)
    base: str = ""


@final
@dataclass
class Downlink:
    """How the consensus travels in a run. `folder`: where what was sent is kept. `seed`, `study`: of the study."""

    codec: Codec
    folder: Path
    seed: int
    study: str
    sent: Sent = field(default_factory=lambda: Sent({}))
    _held: dict[str, str] = field(default_factory=dict)  # site → digest
    _hellos: dict[str, Hello] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _forms: dict[str, Ask] = field(default_factory=dict)
    _nonce: str = ""

    # ------------------------------------------------------------ what a round sends

    def pack(self, arrays: Arrays, round_: int) -> Sent:
        """This round's consensus as the sites will have it; the same bits whenever it is packed again."""
        if self.codec.exact:
            self.sent = Sent(arrays)
            return self.sent
        before = self._before(round_) if self.codec.differences else None
        seed = derive(self.seed, "codec down", round_)
        form, coded, received = pack_down(self.codec, arrays, before and before[0], seed)
        base = before[1] if before is not None and form == "difference" else ""
        self.sent = Sent(received, digest(received), round_, form, coded, base)
        if self.codec.differences:
            self._keep(round_)
        return self.sent

    def _file(self, round_: int) -> Path:
        return self.folder / f"round-{round_:04d}.safetensors"

    def _before(self, round_: int) -> tuple[Arrays, str] | None:
        last = self.sent
        return (last.arrays, last.holds) if last.round and last.round == round_ - 1 else self._read(round_ - 1)

    def _read(self, round_: int) -> tuple[Arrays, str] | None:
        """What was sent in a round, and its digest; None where no whole file of this study says so: sites then start anew."""
        try:
            found, says = load_arrays(self._file(round_))
        except RunFileError:
            return None
        if (says.get("study"), says.get("round")) != (self.study, round_):
            return None
        settle(self._file(round_))
        return {name: found[name] for name in says["order"]}, str(says["holds"])

    def _keep(self, round_: int) -> None:
        file, sent = self._file(round_), self.sent
        says = {
            "format": FORMAT, "study": self.study, "round": round_, "holds": sent.holds, "order": list(sent.arrays),
        }  # fmt: skip
        before = self._read(round_)
        if before is None or before[1] != sent.holds:
            write_whole(file, *arrays_file(sent.arrays, says))
        for old in self.folder.glob("round-*.safetensors"):
            if (number_of(old) or 0) < round_ - KEPT:
                remove_file(old)

    # ------------------------------------------------------------ to whom in what form

    def ask(self, ask: Ask) -> Ask:
        """The request with this round's consensus in it, as a site has it that received it."""
        ask = replace(ask, arrays=self.sent.arrays, holds=self.sent.holds)
        self._nonce, self._forms = ask.nonce, {"": ask}
        return ask

    def greeted(self, sites: Roster) -> None:
        """Who is there, at which node, and what each said it holds, if it said hello since."""
        self._names = {node: name for name, node in sites.nodes.items()}
        for name, hello in sites.hellos.items():
            if self._hellos.get(name) is not hello:
                self._hellos[name], self._held[name] = hello, hello.holds

    def received(self, name: str, ask: Ask) -> None:
        """This site has answered what it was sent."""
        if self._held.get(name) != self.sent.holds:  # or it has answered late, and holds more by now
            self._held[name] = ask.holds

    def lacks(self, node: int, ask: Ask) -> bool:
        """A site does not hold what it was sent a difference from. Whether it can be sent the whole now."""
        self._held.pop(self._names.get(node, ""), None)
        return ask.nonce == self._nonce and bool(ask.holds)

    def travels(self, node: int, ask: Ask) -> Ask:
        """A request in the form in which it goes to this node. Nodes that share a form share the object."""
        if ask.nonce != self._nonce or not ask.holds:
            return ask
        form = self._form(self._held.get(self._names.get(node, ""), ""))
        if form not in self._forms:
            self._forms[form] = self._formed(ask, form)
        return self._forms[form]

    def _form(self, held: str) -> Form:
        sent = self.sent
        if sent.form == "whole":
            return "whole"
        if held == sent.holds:
            return "held"
        if held == sent.base or sent.form == "opening":
            return sent.form
        return "half"

    def _formed(self, ask: Ask, form: Form) -> Ask:
        if form == "held":
            return replace(ask, arrays={}, form=form, base=ask.holds)
        if form == "half":
            coded = pack_half(ask.arrays)
            return ask if coded is None else replace(ask, arrays=coded, form=form)
        return replace(ask, arrays=self.sent.coded, form=form, base=self.sent.base)
