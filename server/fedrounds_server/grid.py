"""Our own layer over a Flower Grid: ask every node, take each answer by itself, by a deadline of its own.

Flower's `send_and_receive` keeps every reply until the last is there and lets one odd reply end the
round. Here each answer is read alone, as it comes, and whatever is odd costs only the site it came from;
what is wrong on our own way to the SuperLink costs no site at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import final

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedrounds_common.leaving import Ask, to_wire
from fedrounds_common.letter import Letter
from fedrounds_common.wire import record_of
from fedrounds_server.answers import ABSENT, FORGED, LATE, LOST, NOT_HELD, Answer, read_reply
from fedrounds_server.clock import Clock
from fedrounds_server.keys import Keys
from fedrounds_server.pulling import (
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    LEAST_S,
    OUTAGE_S,
    PATIENCE_S,
    Puller,
    is_ours,
    steadily,
)

TYPES = {
    "hello": MessageType.QUERY,
    "train": MessageType.TRAIN,
    "score": MessageType.EVALUATE,
    "statistics": MessageType.EVALUATE,
    "mask": MessageType.TRAIN,
}
POLL_S = 0.5
TTL_S = 12 * 3600.0  # Flower's own: a message that is not answered by then is thrown away
LIMIT_S = TTL_S - 1800.0  # so nobody is waited for longer, whatever the study says
GRACE_S = 60.0  # for the sites to come back, after our own side was away at a deadline
GONE_S = 900.0  # a node that was offline for so long has left
LOOK_S = 2.0  # between two looks at which nodes are online, while one is awaited
MOST_AGAIN = 2
COUNTED = 8  # requests whose bytes are still known: a round's, the one's before, and what is judged beside
CRASHED, OFFLINE = 8, 5  # Flower's codes: the ClientApp's process died; the node's heartbeat has stopped


@final
@dataclass
class _Sent:
    node: int
    ask: Ask
    sent_at: float
    away_since: float | None = None
    void: bool = False  # Flower has thrown the message away, and would take no answer to it any more
    doubtful: bool = False  # a pull failed on our side, and may have used up the one reply there was
    again: int = 0
    whole: bool = False  # sent once more because the node could not read the first


@final
class Post:
    """What was sent over a grid and is not answered yet. One for a whole run: answers may come rounds later.

    A node is asked again by the same Ask, with the same nonce, if the first was lost on the way;
    whichever answer comes first is the answer, the other is thrown away.
    """

    def __init__(self, grid: Grid, clock: Clock | None = None, keys: Keys | None = None) -> None:
        self.grid, self.clock, self.keys = grid, clock or Clock(), keys
        self.strays: list[Answer] = []  # answers to what is not being waited for: late ones, and hellos
        self.take_stray: Callable[[Answer], bool] = lambda answer: False  # has the first look at each
        self.travels: Callable[[int, Ask], Ask] = lambda node, ask: ask  # in what form a request goes to a node
        self.lacks: Callable[[int, Ask], bool] = lambda node, ask: False  # whether it can now be sent in another
        self._sent_bytes: dict[str, dict[int, int]] = {}  # nonce → node → bytes, of the last few requests
        self._waiting: dict[str, _Sent] = {}
        # how often each request was sent: hardly one is sent twice, and to look for copies at every answer would
        # take the square of the number of sites
        self._times: dict[tuple[int, str, str], int] = {}
        self._doubts = False  # whether any request may be doubtful
        self._came: deque[tuple[str, Answer]] = deque()
        # a grid of our own waits in its pulls, and has no peer that could make them hang
        self._puller = None if getattr(grid, "waits", False) else Puller(grid)
        self._failing = self._was_away = False
        self._pause = FIRST_PAUSE_S
        self._online: frozenset[int] = frozenset()
        self._looked = -LOOK_S

    def nodes(self) -> list[int]:
        """The nodes that are online."""
        return steadily(lambda: list(self.grid.get_node_ids()), self.clock)

    def waits_for(self, node: int, kind: str) -> bool:
        return any((sent.node, sent.ask.kind) == (node, kind) for sent in self._waiting.values())

    def is_back(self, node: int) -> None:
        """This node was away and speaks again: what it has not answered is sent to it once more."""
        for sent in self._waiting.values():
            sent.doubtful = sent.doubtful or sent.node == node
        self._doubts = True

    def ask(
        self, asks: Mapping[int, Ask], deadline_s: float | None = None, keep: bool = False
    ) -> Generator[Answer, None, None]:
        """Send each node its request and yield the answers as they come; every node is yielded exactly once.

        Args:
            asks: node → request. Nodes that share one Ask object share its bytes too. What a node was sent
                before and has not answered is not sent again.
            deadline_s: seconds from now; whoever has not answered then is yielded as late.
            keep: what comes later is still taken, into `strays`; else it is given up, as it is where the
                caller stops in the middle.
        """
        mine = {(node, ask.nonce) for node, ask in asks.items()}
        late: set[tuple[int, str]] = set()
        try:
            for node in self._send(asks, deadline_s):
                mine.discard((node, asks[node].nonce))
                yield self._counted(Answer(node, None, LOST, ask=asks[node]))
            for answer in self._receive(mine, self._end(deadline_s)):
                mine.discard((answer.node, _nonce(answer)))
                yield answer
            late = set(mine) if keep else late
            for node, _ in sorted(mine):
                yield self._counted(Answer(node, None, LATE, ask=asks[node]))
        finally:
            self.give_up(lambda sent_to, ask: (sent_to, ask.nonce) in mine - late)

    def wait(self, seconds: float) -> None:
        """Let time pass; what comes meanwhile is among the strays. Ends early when something has come."""
        end = self.clock.now() + seconds
        before = len(self.strays)
        while len(self.strays) == before and (left := end - self.clock.now()) > 0:
            if self._waiting:
                for _ in self._receive(set(), min(end, self.clock.now() + POLL_S), everything=True):
                    pass
            else:
                self.clock.sleep(left)

    def take_strays(self, kind: str) -> list[Answer]:
        """The answers to requests of this kind that came while nobody waited for them; each is had once."""
        mine = [answer for answer in self.strays if answer.ask is not None and answer.ask.kind == kind]
        self.strays = [answer for answer in self.strays if answer not in mine]
        return mine

    def give_up(self, which: Callable[[int, Ask], bool]) -> None:
        """Wait no longer for these: an answer that still comes is nobody's."""
        ids = [number for number, sent in self._waiting.items() if which(sent.node, sent.ask)]
        for number in ids:
            self._times.pop(_what(self._waiting.pop(number)), None)
            if self._puller is not None:
                self._puller.forget(number)
        if ids and hasattr(self.grid, "abandon"):
            self.grid.abandon(ids)

    # ------------------------------------------------------------ sending

    def _send(self, asks: Mapping[int, Ask], deadline_s: float | None) -> Iterator[int]:
        """Send what is not underway already; yields the nodes whose message Flower did not take."""
        underway = {(sent.node, sent.ask.nonce) for sent in self._waiting.values()}
        letters: dict[int, tuple[Ask, Letter]] = {}
        for node, ask in asks.items():
            if (node, ask.nonce) in underway:
                continue
            form = self.travels(node, ask)
            if id(form) not in letters:
                letters[id(form)] = form, self._letter(form)
            if not self._push(node, ask, letters[id(form)][1], deadline_s):
                yield node

    def _letter(self, ask: Ask) -> Letter:
        header, buffer = to_wire(ask)
        return header, buffer, self.keys.sign(header, buffer) if self.keys else b""

    def _push(self, node: int, ask: Ask, letter: Letter, deadline_s: float | None, again: int = 0) -> bool:
        # never shorter than Flower's own: a site whose clock is ahead could not answer a short one
        ttl = max(TTL_S, (deadline_s or 0.0) + OUTAGE_S + GRACE_S)
        message = Message(
            record_of(*letter), dst_node_id=node, message_type=TYPES[ask.kind], group_id=str(ask.round), ttl=ttl
        )
        # a message that was not taken has no number: Flower answers None, or nothing for one too large
        number = steadily(lambda: next(iter(self.grid.push_messages([message])), None), self.clock)
        if number is not None:
            sent = self._waiting[number] = _Sent(node, ask, self.clock.now(), again=again)
            self._times[_what(sent)] = self._times.get(_what(sent), 0) + 1
            self._count(node, ask, letter)
        return number is not None

    def _count(self, node: int, ask: Ask, letter: Letter) -> None:
        if ask.kind == "hello":  # there is no end of these
            return
        counts = self._sent_bytes.setdefault(ask.nonce, {})
        counts[node] = counts.get(node, 0) + len(letter[0].encode()) + len(letter[1])
        for old in list(self._sent_bytes)[:-COUNTED]:
            del self._sent_bytes[old]

    def bytes_to(self, node: int, ask: Ask) -> int:
        """How much this request has been to this node, header and buffer, as often as it was sent."""
        return self._sent_bytes.get(ask.nonce, {}).get(node, 0)

    def _counted(self, answer: Answer) -> Answer:
        return answer if answer.ask is None else replace(answer, bytes_down=self.bytes_to(answer.node, answer.ask))

    def _ask_again(self, sent: _Sent) -> bool:
        """Whether the same was sent once more; the first message is still waited for."""
        if sent.again >= MOST_AGAIN:
            return False
        sent.again += 1
        return self._push(sent.node, sent.ask, self._letter(self.travels(sent.node, sent.ask)), None, sent.again)

    def _sent_whole(self, number: str, answer: Answer) -> bool:
        """Whether a node that could not read its request was sent the same in another form; once."""
        sent = self._waiting.get(number)
        if sent is None or answer.fault != NOT_HELD or sent.whole or not self.lacks(sent.node, sent.ask):
            return False
        form = self.travels(sent.node, sent.ask)
        if not self._push(sent.node, sent.ask, self._letter(form), None, sent.again):
            return False
        self._waiting.pop(number)
        for other in self._waiting.values():
            other.whole = other.whole or (other.node, other.ask.nonce) == (sent.node, sent.ask.nonce)
        return True

    # ------------------------------------------------------------ receiving

    def _end(self, deadline_s: float | None) -> float | None:
        if self._puller is not None:
            deadline_s = LIMIT_S if deadline_s is None else deadline_s
        return None if deadline_s is None else self.clock.now() + deadline_s

    def _receive(self, wanted: set[tuple[int, str]], end: float | None, everything: bool = False) -> Iterator[Answer]:
        """Answers to what is wanted, until all are there or it is over; all others go to the strays."""
        longest = None if end is None else end + OUTAGE_S
        while everything or any((sent.node, sent.ask.nonce) in wanted for sent in self._waiting.values()):
            moved = self._sweep(end)
            while self._came:
                number, answer = self._came.popleft()
                if self._sent_whole(number, answer):
                    continue
                if self._settle(number, answer):
                    answer = self._counted(answer)
                    if (answer.node, _nonce(answer)) in wanted:
                        yield answer
                    elif not self.take_stray(answer):
                        self.strays.append(answer)
            # not while answers lie there: they may have come in time, while the one before was being read
            if not moved and end is not None and self.clock.now() > end:
                more = self._longer(longest)
                if not more:
                    break
                end = self.clock.now() + more
            if not moved and self._puller is not None:
                self.clock.sleep(POLL_S)
            if everything and not self._waiting:
                break

    def _settle(self, number: str, answer: Answer) -> bool:
        """Whether this is the first answer to what it answers; then nothing else is waited for of it."""
        sent = self._waiting.pop(number, None)
        if sent is None:
            return False
        if self._times.pop(_what(sent), 0) > 1:
            self.give_up(lambda node, ask: (node, ask.kind, ask.nonce) == _what(sent))
        return True

    def _longer(self, longest: float | None) -> float:
        """Seconds to wait beyond a deadline: 0, unless our own side is away or has just come back."""
        if self._puller is None or longest is None or self.clock.now() > longest:
            return 0.0
        if self._failing or (self._puller.stuck and not self._puller.reaches_superlink()):
            self._was_away = True
            return POLL_S
        more, self._was_away = GRACE_S if self._was_away else 0.0, False
        return more

    def _sweep(self, end: float | None) -> bool:
        """Look once for every answer; whether anything came."""
        before = len(self._came)
        try:
            if self._puller is None:
                self._pull_together()
            else:
                self._pull_alone(self._puller)
        except Exception as error:
            if not is_ours(error):
                raise  # no peer is behind this: the machine has run out of workers, say
            self._failed(end)
        else:
            self._failing, self._pause = False, FIRST_PAUSE_S
        return len(self._came) > before

    def _failed(self, end: float | None) -> None:
        """Our own side failed: wait a little longer each time, but not past the deadline."""
        self._failing = True
        left = LAST_PAUSE_S if end is None else max(end - self.clock.now(), POLL_S)
        self.clock.sleep(min(self._pause, left))
        self._pause = min(2 * self._pause, LAST_PAUSE_S)

    def _pull_together(self) -> None:
        """Whatever a grid of our own has."""
        try:
            replies = list(self.grid.pull_messages(list(self._waiting)))
        except Exception as error:
            if is_ours(error):
                self._doubt(list(self._waiting))
            raise
        for reply in replies:
            number = reply.metadata.reply_to_message_id
            if number in self._waiting:
                self._came.append(
                    (number, read_reply(reply, self._waiting[number].node, self._waiting[number].ask, self.keys))
                )
        self._clear_doubts({number for number, _ in self._came})

    def _pull_alone(self, puller: Puller) -> None:
        """One reply of a network at a time: several pulled together are held back by one that is half uploaded."""
        left = PATIENCE_S
        for number in list(self._waiting):
            if self._came:
                return  # one at a time, so that no more than one is held in memory; the rest when this one is read
            sent = self._waiting[number] = self._waiting.pop(number)  # who was looked at goes to the end of the row
            if sent.void:
                self._once_back(number, sent)
                continue
            started = self.clock.now()
            try:
                replies = puller.pull(number, max(left, LEAST_S))
            except Exception as error:
                if is_ours(error):
                    self._doubt([number])
                    raise
                # whatever a peer managed to make Flower raise, it is this peer's answer that is lost
                self._came.append((number, Answer(sent.node, None, LOST, ask=sent.ask)))
                continue
            left -= self.clock.now() - started
            if replies is not None:
                self._take_alone(number, sent, replies)

    def _take_alone(self, number: str, sent: _Sent, replies: list[Message]) -> None:
        for reply in replies[:1]:
            if reply.metadata.reply_to_message_id != number:
                # what came for this node says it answers another's request: that other one has not answered yet
                self._came.append((number, Answer(sent.node, None, FORGED, ask=sent.ask)))
            elif not (reply.has_error() and self._mended(number, sent, reply.error.code)):
                self._came.append((number, read_reply(reply, sent.node, sent.ask, self.keys)))
        if not replies:
            self._still_nothing(sent)

    def _mended(self, number: str, sent: _Sent, code: int) -> bool:
        """Whether this error of Flower's is no answer: the node may come back, or was asked again."""
        if code == OFFLINE:
            # with this very error Flower deletes what the node was asked: its answer would be refused
            sent.away_since, sent.void = self.clock.now(), True
            return True
        return code == CRASHED and self._ask_again(sent) and self._waiting.pop(number, None) is not None

    def _still_nothing(self, sent: _Sent) -> None:
        """A node whose reply we may have lost is asked again."""
        if sent.doubtful:
            sent.doubtful = False
            self._ask_again(sent)

    def _once_back(self, number: str, sent: _Sent) -> None:
        """A node that was away is asked the same again when it is back; what it has answered already it has kept."""
        now = self.clock.now()
        if now - self._looked >= LOOK_S:
            self._looked, self._online = now, frozenset(self.grid.get_node_ids())
        if sent.node in self._online:
            if self._push(sent.node, sent.ask, self._letter(self.travels(sent.node, sent.ask)), None, sent.again):
                self._waiting.pop(number)
        elif sent.away_since is not None and now - sent.away_since > GONE_S:
            self._came.append((number, Answer(sent.node, None, ABSENT, ask=sent.ask)))

    def _doubt(self, numbers: list[str]) -> None:
        for number in numbers:
            self._waiting[number].doubtful = True
        self._doubts = True

    def _clear_doubts(self, came: set[str]) -> None:
        if not self._doubts:
            return
        self._doubts = any(number in came for number, sent in self._waiting.items() if sent.doubtful)
        for number, sent in list(self._waiting.items()):
            if number not in came and sent.doubtful:
                sent.doubtful = False
                self._ask_again(sent)


def _what(sent: _Sent) -> tuple[int, str, str]:
    """What was asked of whom, however often."""
    return sent.node, sent.ask.kind, sent.ask.nonce


def _nonce(answer: Answer) -> str:
    return "" if answer.ask is None else answer.ask.nonce
