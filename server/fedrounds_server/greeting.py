"""Saying hello until the sites are there: names come only from what a site answers, never from Flower's node ids.

A grid of our own knows its sites and asks each once. Between hospitals a site may come days later, because a person
there has to allow the study first: whoever is new, was absent or lost, or says "not permitted yet" is greeted again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import final

from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import Ask, Hello
from fedrounds_server.answers import ABSENT, LATE, LOST, Answer
from fedrounds_server.cohort import Roster, roster
from fedrounds_server.grid import LIMIT_S, Post
from fedrounds_server.guard import check_hello
from fedrounds_server.plan import Plan

GREET_S = 10.0  # what a hello may take before the others are seen to; its answer is still taken later
FIRST_S, LAST_S = 1.0, 10.0  # between two hellos to a node: grows from the one to the other
BROKEN_S = 60.0  # the same, for a site whose own data or program is at fault: it reads all its cases each time
SETTLE_S = 10.0  # where nobody says who is wanted: so long without a new node, and those who are there begin
BITS = ("torch", "numpy")  # packages whose versions change the last bits


def own_versions() -> dict[str, str]:
    return {name: _version(name) for name in ("fedrounds", *BITS)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


@final
class Reception:
    """Who is there, by node. `caps` and `known` are kept up to date for whoever holds them.

    `caps`: the most cases each site may claim. `known`: the training cases of every site that ever said hello.
    `unlike`: sites whose versions do not give the same bits as those here, and how.
    """

    def __init__(self, post: Post, plan: Plan) -> None:
        self.caps: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self.unlike: dict[str, str] = {}
        self._post, self._plan, self._cohort = post, plan, plan.study.cohort
        self._names: Mapping[int, str] | None = getattr(post.grid, "names", None)
        self._versions = own_versions()
        self._online: set[int] = set()
        self._newest = plan.clock.now()
        self._hellos: dict[int, Hello] = {}
        self._faults: dict[int, tuple[str, str]] = {}
        self._due: dict[int, float] = {}
        self._step: dict[int, float] = {}
        self._asked: dict[int, float] = {}

    @property
    def closed(self) -> bool:
        """Whether the grid plays the sites itself: then all are there from the start, or never."""
        return self._names is not None

    def gather(self) -> Roster:
        """Greet until all wanted sites are ready, or the study's wait is over.

        Raises:
            TooFewSites: fewer than the minimum were ready then.
        """
        if self.closed:
            self._greet(self._look(), self._cohort.deadline_s)
        else:
            self._until(self._all_ready)
        return self.roster()

    def again(self) -> Roster:
        """Greet who has come since, before a round; waits only where fewer than the minimum are there.

        Raises:
            TooFewSites: they still were when the study's wait was over.
        """
        if not self.closed:
            self._until(self._enough)
        return self.roster()

    def lost(self, names: set[str]) -> None:
        """These sites' answers did not come through: they say hello again before they take part again."""
        if not self.closed:
            for node in [node for node, hello in self._hellos.items() if hello.site in names]:
                self._faults[node] = (self._hellos.pop(node).site, f"error:{LOST}")

    def roster(self, minimum: int | None = None) -> Roster:
        claims: dict[str, list[int]] = {}
        for node, hello in self._hellos.items():
            claims.setdefault(hello.site, []).append(node)
        faults = dict(self._faults.values())
        twice = {name for name, nodes in claims.items() if len(nodes) > 1}
        out = twice | (set(faults) & set(claims) if self.closed else set())
        faults |= dict.fromkeys(twice, "error:FR-R41")
        nodes = {name: found[0] for name, found in claims.items() if name not in out}
        hellos = {name: self._hellos[node] for name, node in nodes.items()}
        faults = {name: state for name, state in faults.items() if name not in nodes}
        return roster(nodes, hellos, faults, self._cohort, self._expected(faults), minimum)

    def _expected(self, faults: Mapping[str, str]) -> set[str]:
        """Who belongs to the study where it lists nobody: who is enrolled, and whoever was once there."""
        if self.closed:
            return set()
        keys = self._plan.keys
        return {*self.known, *(faults if keys is None else keys.enrolled())}

    # ------------------------------------------------------------ waiting

    def _until(self, ready: Callable[[], bool]) -> None:
        clock = self._plan.clock
        end = clock.now() + self._cohort.wait_s
        told: Mapping[str, str] = {}
        while True:
            for answer in self._post.take_strays("hello"):
                self._note(answer)
            self._greet(self._look(), GREET_S)
            over = ready() or clock.now() >= end
            missing = {} if over else self._missing()
            if missing != told:
                told = missing
                self._plan.listen("waiting", {"sites": missing, "seconds": max(end - clock.now(), 0.0)})
            if over:
                return
            soonest = min([end, clock.now() + LAST_S, *(self._due[node] for node in self._unready())])
            self._post.wait(max(soonest - clock.now(), 0.1))

    def _missing(self) -> dict[str, str]:
        """Who is waited for, and their state; where nobody is wanted by name, whoever is there and not ready."""
        ready, faults = self.roster(minimum=0), dict(self._faults.values())
        names = (self._wanted() or set(faults)) - set(ready.nodes)
        return {name: faults.get(name, ABSENT) for name in sorted(names)}

    def _unready(self) -> list[int]:
        """Nodes that are there, have not said hello, and are not about to."""
        return sorted(node for node in self._online - set(self._hellos) if not self._post.waits_for(node, "hello"))

    def _all_ready(self) -> bool:
        ready = self.roster(minimum=0)
        if len(ready.training) < self._cohort.minimum:
            return False
        wanted = self._wanted()
        if wanted:
            return wanted <= set(ready.nodes)
        return self._online <= set(self._hellos) and self._plan.clock.now() - self._newest >= SETTLE_S

    def _wanted(self) -> set[str]:
        if self._cohort.sites:
            return {*self._cohort.sites, *self._cohort.held_out}
        return set() if self._plan.keys is None else set(self._plan.keys.enrolled())

    def _enough(self) -> bool:
        return len(self.roster(minimum=0).training) >= self._cohort.minimum

    # ------------------------------------------------------------ one pass

    def _look(self) -> list[int]:
        """The nodes to greet now; whoever is gone, or may not take part any more, is forgotten."""
        now, online = self._plan.clock.now(), set(self._post.nodes())
        for node in self._online - online:
            for table in (self._hellos, self._faults, self._due, self._step, self._asked):
                table.pop(node, None)
            self._drop_hello(node)
        if online - self._online:
            self._newest = now
        self._online = online
        self._send_away_revoked()
        for node, asked in list(self._asked.items()):
            if now - asked > (self._cohort.deadline_s or LIMIT_S):
                self._drop_hello(node)
        for node in online:
            self._due.setdefault(node, now)
        return [node for node in self._unready() if self._due[node] <= now]

    def _drop_hello(self, node: int) -> None:
        self._asked.pop(node, None)
        self._post.give_up(lambda sent_to, ask: sent_to == node and ask.kind == "hello")

    def _send_away_revoked(self) -> None:
        if self._plan.keys is not None:
            enrolled = self._plan.keys.enrolled()
            for node in [node for node, hello in self._hellos.items() if hello.site not in enrolled]:
                self._faults[node] = (self._hellos.pop(node).site, "error:FR-R52")

    def _greet(self, nodes: list[int], deadline_s: float | None) -> None:
        """One hello, with a nonce of its own."""
        if not nodes:
            return
        plan = self._plan
        ask = Ask("hello", plan.folder.path.name, 0, secrets.token_hex(8), plan.text, plan.digest)
        self._asked |= dict.fromkeys(nodes, plan.clock.now())
        for answer in self._post.ask(dict.fromkeys(nodes, ask), deadline_s, keep=not self.closed):
            self._note(answer)

    def _note(self, answer: Answer) -> None:
        node, now = answer.node, self._plan.clock.now()
        hello, state = self._judged(answer)
        before = self._faults.pop(node, None)
        if hello is not None:
            name = hello.site
            self._hellos[node] = hello
            self._post.is_back(node)
            self.known[name] = hello.training_cases
            self.caps[name] = self._cap(name, hello.training_cases)
            if self.closed and sum(other.site == name for other in self._hellos.values()) > 1:
                state = "error:FR-R41"
        else:
            name = self._name(answer)
            self._faults[node] = (name, state)
            last = BROKEN_S if state.startswith("error:") and state != f"error:{LOST}" else LAST_S
            step = self._step[node] = min(2 * self._step.get(node, FIRST_S / 2), last)
            self._due[node] = now + step
        if state != LATE:
            self._asked.pop(node, None)
        if self.closed or before != (name, state):
            self._plan.listen("hello", {"site": name, "state": state})

    def _judged(self, answer: Answer) -> tuple[Hello | None, str]:
        """The hello if it is fit, and its state."""
        if answer.fault or not isinstance(answer.leaving, Hello) or answer.ask is None:
            return None, answer.state
        keys = self._plan.keys
        if not self.closed or keys is not None:
            cap = keys.enrolled().get(answer.leaving.site, 0) if keys else None
            try:
                check_hello(answer.leaving, answer.ask, cap, self._versions["fedrounds"])
            except UpdateError as error:
                self._plan.listen("warning", {"text": str(error)})
                return None, f"error:{error.code}"
            self._compare(answer.leaving)
        return answer.leaving, "ok"

    def _cap(self, name: str, said: int) -> int:
        return said if self._plan.keys is None else self._plan.keys.enrolled().get(name, 0)

    def _name(self, answer: Answer) -> str:
        """Of a node that did not say who it is: what it was registered as, and never the name it claims unproved."""
        said: str = getattr(answer.leaving, "site", "") or (self._names or {}).get(answer.node, "")
        registered = self._plan.keys.site_at(answer.node) if self._plan.keys and not said else ""
        return said or registered or f"node-{answer.node}"

    def _compare(self, hello: Hello) -> None:
        pairs = [(name, hello.versions.get(name, "unknown"), self._versions[name]) for name in BITS]
        unlike = ", ".join(f"{name} {theirs} (here {ours})" for name, theirs, ours in pairs if theirs != ours)
        if unlike and self.unlike.get(hello.site) != unlike:
            self.unlike[hello.site] = unlike
            self._plan.listen("warning", {"text": f"{hello.site}: {unlike}: not bit-exact"})
