"""The network between: a SuperLink with its nodes, that loses, repeats, delays, forges and goes away as it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, final

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from sim_disk import Crash
from sim_hospital import Hospital, Letter
from sim_world import World

from fedrounds_common.leaving import Ask, from_wire
from fedrounds_common.wire import parts_of, record_of, signature_of
from fedrounds_server.engines.inline import SERVER_NODE, identify
from fedrounds_server.grid import CRASHED, OFFLINE
from fedrounds_server.pulling import Unfinished

T = TypeVar("T")
GHOST_S = 60.0  # how long a node that is gone is still taken to be online


class Hangs(Exception):
    """A pull that does not come back: an answer was announced and is not uploaded."""


@final
class AtOnce(Generic[T]):
    """In the place of `fedrounds_server.pulling.Aside`: no thread; a call that hangs takes time of the scheduler's."""

    def __init__(self, world: World, call: Callable[[], T]) -> None:
        self._world, self._call = world, call

    def result(self, patience_s: float) -> T:
        try:
            return self._call()
        except Hangs:
            self._world.sleep(patience_s)
            raise Unfinished from None


@final
@dataclass
class Mail:
    """One request on its way, and what came of it."""

    number: str
    message: Message
    node: int
    letter: Letter
    ask: Ask
    answers: list[Letter | int] = field(default_factory=list)  # a number is Flower's own error code
    half_until: float = 0.0
    taken_by: tuple[int, int] | None = None  # node and generation


@final
class SuperLink:
    """Its database outlives the coordinator's process and its own; the mail of a run ends with the run."""

    def __init__(self, world: World, hospitals: Iterable[Hospital], done: Callable[[Hospital, Ask, Letter], None],
                 asked: Callable[[Ask], None], before: Callable[[Hospital, Ask | None], None], fallen: Callable[[Hospital], None]) -> None:  # fmt: skip
        self.world, self.hospitals = world, {hospital.name: hospital for hospital in hospitals}
        self.mail: dict[str, Mail] = {}
        self.away_until = 0.0
        self.ghosts: dict[int, float] = {}
        self.old: list[Mail] = []
        self._done, self._asked, self._before, self._fallen = done, asked, before, fallen
        self._count = 0

    def at(self, node: int) -> Hospital | None:
        return next((hospital for hospital in self.hospitals.values() if hospital.node == node), None)

    def online(self) -> list[int]:
        now = self.world.now
        up = [hospital.node for hospital in self.hospitals.values() if hospital.up]
        return sorted({*up, *(node for node, until in self.ghosts.items() if until > now)})

    def new_run(self) -> None:
        """What was sent in a run of Flower's that ended is nobody's any more, though it may still be on its way."""
        self.old += list(self.mail.values())
        self.mail = {}

    # ------------------------------------------------------------ to the site

    def send(self, message: Message) -> str:
        self._count += 1
        number = str(self._count)
        message.metadata.__dict__["_message_id"] = number
        header, buffer = parts_of(message.content)
        ask = from_wire(header, buffer)
        assert isinstance(ask, Ask)
        node = message.metadata.dst_node_id
        self._asked(ask)
        mail = Mail(number, message, node, (header, buffer, signature_of(message.content)), ask)
        self.mail[number] = mail
        self.world.say(f"ask {number} {ask.kind} round {ask.round} -> node {node}")
        world = self.world
        if world.draws("request lost", number):
            return number
        self._post(mail, mail.letter)
        if world.draws("request twice", number):
            self._post(mail, mail.letter)
        if self.old and world.draws("old request again"):
            mine = [each for each in self.old if each.node == node]
            if mine:
                old = world.rng.choice(mine)
                self._post(old, old.letter)
        return number

    def _post(self, mail: Mail, letter: Letter) -> None:
        if self.world.draws("request bit flipped", mail.number):
            letter = flipped(letter, self.world)
        self.world.later(self.world.rng.uniform(0.1, 1.5), lambda: self._deliver(mail, letter))

    def _deliver(self, mail: Mail, letter: Letter) -> None:
        hospital = self.at(mail.node)
        if hospital is None:
            return
        if not hospital.up or hospital.busy:  # it lies there until the node asks for it
            self.world.later(2.0, lambda: self._deliver(mail, letter))
            return
        hospital.busy, generation = True, hospital.generation
        mail.taken_by = hospital.node, generation
        world = self.world
        takes = world.rng.uniform(0.5, 4.0) if mail.ask.kind == "train" else 0.3
        hangs = world.draws("site hangs", hospital.name)
        if world.draws("site killed in training", hospital.name):
            world.later(takes / 2, lambda: self._fall(hospital, generation, mail))
        world.later(40.0 if hangs else takes, lambda: self._finish(hospital, generation, mail, letter, hangs))

    def _finish(self, hospital: Hospital, generation: int, mail: Mail, letter: Letter, hangs: bool) -> None:
        if hospital.generation != generation:
            return
        self._before(hospital, mail.ask if letter is mail.letter else None)
        try:
            said = hospital.too_late(letter) if hangs else hospital.answer(letter)
        except Crash:
            self._fall(hospital, generation, mail)
            return
        except Exception as error:  # noqa: BLE001  (as Flower answers where the ClientApp raises)
            self.world.say(f"{hospital.name} raises {type(error).__name__}: {error}")
            hospital.busy = False
            mail.answers.append(1)
            return
        hospital.busy = False
        self._done(hospital, mail.ask, said)
        self._upload(hospital, mail, said)

    def _fall(self, hospital: Hospital, generation: int, mail: Mail) -> None:
        if hospital.generation != generation:
            return
        world = self.world
        hospital.generation += 1
        hospital.busy = False
        self._fallen(hospital)
        if world.rng.random() < 0.4:  # only the process that trains died: its SuperNode says so
            world.later(1.0, lambda: mail.answers.append(CRASHED))
            return
        hospital.up = False
        old = hospital.node
        if world.draws("site comes back as another node", hospital.name):
            self.ghosts[old] = world.now + GHOST_S
            hospital.node = old + 100
        down = min(world.rng.uniform(3.0, 60.0), max(world.calm_at - world.now, 0.0) + 1.0)
        world.later(down, lambda: self._rise(hospital))

    def _rise(self, hospital: Hospital) -> None:
        hospital.up = True
        self.world.say(f"{hospital.name} is back as node {hospital.node}")

    # ------------------------------------------------------------ from the site

    def _upload(self, hospital: Hospital, mail: Mail, said: Letter) -> None:
        world, about = self.world, f"{mail.number} of {hospital.name}"
        mine = list(hospital.sent)
        hospital.sent.append(said)
        if world.draws("answer lost", about):
            return
        if world.draws("answer bit flipped", about):
            said = flipped(said, world)
        elif world.draws("answer unsigned", about):
            said = said[0], said[1], b""
        elif mine and world.draws("answer replayed", about):
            said = world.rng.choice(mine)
        elif world.draws("answer of another site", about):
            others = [each.sent[-1] for each in self.hospitals.values() if each is not hospital and each.sent]
            said = world.rng.choice(others) if others else said
        slow = world.rng.uniform(10.0, 70.0) if world.draws("answer slow", about) else 0.0
        if world.draws("answer half uploaded", about):
            mail.half_until = world.now + world.rng.choice([15.0, 1e9])
        world.later(slow + world.rng.uniform(0.1, 1.0), lambda: mail.answers.append(said))
        if world.draws("answer twice", about):
            world.later(slow + world.rng.uniform(0.1, 9.0), lambda: mail.answers.append(said))

    def pull(self, number: str) -> list[Message]:
        mail, world = self.mail.get(number), self.world
        if mail is None:
            return []
        if mail.half_until > world.now:
            raise Hangs
        if not mail.answers:
            hospital = self.at(mail.node)
            if mail.taken_by is not None and (hospital is None or not hospital.up) and mail.node not in self.ghosts:
                del self.mail[number]  # as Flower does: it would take no answer to it any more
                return [Message(Error(OFFLINE, "the node is offline"), reply_to=mail.message)]
            return []
        found, mail.answers = mail.answers, []
        if world.draws("pull loses the answer", number):
            raise ConnectionError("the line broke")
        if world.draws("pull breaks", number):
            raise ValueError("what a peer sent cannot be read")
        return [self._reply(mail, said) for said in found]

    def _reply(self, mail: Mail, said: Letter | int) -> Message:
        if isinstance(said, int):
            return Message(Error(said, "the app failed"), reply_to=mail.message)
        world = self.world
        self.world.say(f"answer {mail.number} pulled")
        record = record_of(*said)
        if world.draws("answer is no record of ours", mail.number):
            record = RecordDict({"config": ConfigRecord({"x": 1})})
        reply = Message(record, reply_to=mail.message)
        if world.draws("answer to another's request", mail.number):
            reply.metadata.__dict__["_reply_to_message_id"] = str(int(mail.number) - 1)
        return reply


def flipped(letter: Letter, world: World) -> Letter:
    header, buffer, signature = letter
    if buffer and world.rng.random() < 0.7:
        place = world.rng.randrange(len(buffer))
        return header, buffer[:place] + bytes([buffer[place] ^ 4]) + buffer[place + 1 :], signature
    text = header.replace('"round": ', '"round": 1', 1) if world.rng.random() < 0.5 else header[:-2]
    return (text if text != header else header[:-2]), buffer, signature


@final
class SimGrid(Grid):
    """One run of Flower's on that SuperLink."""

    def __init__(self, link: SuperLink) -> None:
        identify(SERVER_NODE)
        self._link, self._world = link, link.world
        link.new_run()

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def _reach(self) -> None:
        link, world = self._link, self._world
        if world.now < link.away_until:
            raise ConnectionError("the SuperLink is away")
        if world.draws("superlink away"):
            link.away_until = world.now + world.rng.uniform(1.0, 40.0)
            raise ConnectionError("the SuperLink is away")

    def get_node_ids(self) -> Iterable[int]:
        self._reach()
        return self._link.online()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._reach()
        (message,) = messages
        if self._world.draws("push not taken"):
            return []
        number = self._link.send(message)
        if self._world.draws("push loses its receipt", number):
            raise ConnectionError("the line broke")
        return [number]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._reach()
        (number,) = message_ids
        return self._link.pull(number)
