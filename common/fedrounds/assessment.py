"""`fedrounds study dpia`: a data protection impact assessment, filled in as far as a study and a site's books know it.

GDPR Art. 35(7) asks for four things: what is done and why, whether it is necessary and proportionate, the risks, and what
is done about them. What a program cannot know is marked with TO FILL IN; it is never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrounds_client import budget
from fedrounds_client.home import SiteHome
from fedrounds_client.journal import read_journal
from fedrounds_client.ledger import entries
from fedrounds_common.privacy import OUTSIDE, OUTSIDE_OF_HOSPITALS
from fedrounds_common.settling import purposes
from fedrounds_common.study.canonical import digest
from fedrounds_common.study.study import Study

FILL = "**TO FILL IN:**"


def assessment(study: Study, folders: Sequence[Path] = (), site: Path | None = None) -> str:
    """The text, in Markdown. `site`: a site's folder; its books are then summed up, and no case is opened.

    Raises:
        UsageError, RunFileError: the site's folder or its books cannot be used.
    """
    parts = [_what(study, folders), _necessary(study), _risks(study, folders), _measures(study, folders)]
    if site is not None:
        parts.append(_books(SiteHome(site)))
    parts.append(_decided())
    return "\n".join(line for part in parts for line in [*part, ""])


def _what(study: Study, folders: Sequence[Path]) -> Iterator[str]:
    training, cases = study.training, study.cases
    learned = ", ".join(cases.classes or cases.labels)
    yield f"# Data protection impact assessment: {study.name}"
    yield ""
    yield f"Study digest {digest(study)}. Filled in by `fedrounds study dpia`; a person has to finish and to sign it."
    yield ""
    yield "## 1. What is done (Art. 35(7)(a))"
    yield ""
    yield f"- Purpose: {study.task['name']} ({learned}). {FILL} the medical question, and who asked it."
    yield f"- Data: images ({', '.join(cases.channels)}, {cases.dims}D) and their references, health data by Art. 9. They stay at the hospital."
    yield f"- Means: {training.rounds} rounds; in each, the network `{study.model['name']}` is trained at every hospital on its own images."
    sums = ", ".join(purposes(study.build_task(folders))) or "none"
    yield f"- What leaves: a greeting with counts of cases; an update of the network's weights a round; sums of scores; sums for: {sums}."
    yield "  No image, no label, no score of a single case, no name; `fedrounds site review --try` writes the very bytes."
    yield f"- Receiver: the coordinator named in the site's invitation. {FILL} its legal entity, its country, the contract (Art. 26 or 28)."
    yield f"- Kept at the hospital: prepared images until the run ends, its state and books. {FILL} until when the books and the model are kept (Art. 5(1)(e))."


def _necessary(study: Study) -> Iterator[str]:
    yield "## 2. Whether it is necessary and proportionate (Art. 35(7)(b), 5, 25)"
    yield ""
    yield f"- Legal basis: {FILL} Art. 6 and Art. 9(2), national law, ethics vote, consent."
    yield "- Minimisation (Art. 5(1)(c)): images stay; what leaves is worked out from them and is listed above."
    yield f"- A round wants {study.cohort.minimum} sites at least. {FILL} why fewer data, or phantom images, would not do."
    yield f"- Rights (Art. 15 to 21): a patient in `withdrawn.csv` is left out from the next round on, and `fedrounds lineage` says which rounds saw the patient. A trained model does not unlearn. {FILL} how patients are told."


def _risks(study: Study, folders: Sequence[Path]) -> Iterator[str]:
    noisy, summed = study.noisy_steps(folders), study.build_channel().hides_sites
    hidden = "the sum of several sites only" if summed else "this site's update by itself"
    bound = "bounded by the epsilon of one patient below" if noisy is not None else "no epsilon of a patient bounds it"
    yield "## 3. The risks to patients (Art. 35(7)(c))"
    yield ""
    yield "| risk | in this study | evidence |"
    yield "| --- | --- | --- |"
    yield f"| images rebuilt from an update | {bound}; the coordinator sees {hidden} | `fedrounds attack RUN inversion` on a simulation |"
    yield f"| it shows who was trained on | {bound} | `fedrounds attack RUN membership` on a simulation |"
    yield f"| weights altered to read images | {_altered(study, folders)} | `fedrounds site journal` |"
    yield "| a generator repeats patients | looked for in every judgement, where the study makes images | `fedrounds attack RUN copies` |"
    yield "| a name leaves | error texts do not cross; pseudonyms stay | `fedrounds site outbox` |"
    yield "| somebody reads or changes what travels | TLS, signed requests and answers | `fedrounds site doctor` |"
    yield ""
    yield f"{FILL} likelihood and severity of each for these patients."


def _altered(study: Study, folders: Sequence[Path]) -> str:
    if study.noisy_sum(folders) is not None:
        return "not looked for: a consensus with noise in it moves by that"
    return "from the second round on refused where they moved as updates cannot have moved them (FR-C38)"


def _measures(study: Study, folders: Sequence[Path]) -> Iterator[str]:
    yield "## 4. What is done about them (Art. 35(7)(d), 32)"
    yield ""
    found = study.build_privacy(folders)
    for measure in found:
        spent = measure.spent(study.training, [study.cohort.minimum] * study.training.rounds)
        if spent is not None:
            # an audit puts canaries through noisy steps; of noise in sums over hospitals there is none
            audited = measure.steps(study.training) is not None
            how = "checked by `fedrounds attack STUDY canaries`" if audited else "no command audits it"
            yield (
                f"- Noise that hides one {spent.unit}: epsilon {spent.epsilon:.2f} at delta {spent.delta:g} over all rounds "
                f"({spent.accountant}); {how}."
            )
    if not any(measure.unit != "none" for measure in found):
        yield "- Noise: none. No number bounds what the updates tell of one patient."
    outside = dict.fromkeys(
        line
        for measure in found
        for line in {"patient": OUTSIDE, "hospital": OUTSIDE_OF_HOSPITALS}.get(measure.unit, ())
    )
    yield from (f"  - outside of it: {line}" for line in outside)
    if study.build_channel().hides_sites:
        yield f"- Secure sum (`{study.wire['channel']['name']}`): the coordinator holds sums over sites, and no site's update."
    else:
        yield "- Secure sum: none. The coordinator holds this site's update by itself."
    yield "- Nothing runs that no person here allowed: one study, by digest, for so many rounds, until a day (`fedrounds site journal`)."
    yield f"- {FILL} access to the machine, encryption of its disks, backups, who is called when something goes wrong (Art. 33, 34)."


def _books(home: SiteHome) -> Iterator[str]:
    settings = home.read_settings()
    sent = entries(home.outbox)
    kinds = Counter(str(entry["kind"]) for entry in sent)
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing yet"
    policy = settings.policy
    limit = "none" if policy.maximum_epsilon is None else f"{policy.maximum_epsilon:g}"
    yield f"## 5. What the books of {settings.name} say"
    yield ""
    yield f"- Left so far, all studies: {said}; {sum(int(entry['bytes']) for entry in sent):,} bytes (`fedrounds site outbox`)."
    yield f"- The journal has {len(read_journal(home))} lines, each with the checksum of the one before (`fedrounds site journal --verify`)."
    yield f"- Policy: noise for {policy.minimum_privacy}; epsilon of one study at most {limit}; no answer that stands for fewer than {policy.minimum_cases} cases."
    for bill in budget.bills(home, policy.budget_delta):
        whole = "no limit" if policy.budget_epsilon is None else f"of {policy.budget_epsilon:g}"
        yield f"- Spent for any one {bill.unit}: epsilon {bill.spent:.2f} at delta {policy.budget_delta:g}, {whole}, in {bill.rounds} rounds of {bill.studies} studies."


def _decided() -> Iterator[str]:
    yield "## What is to be decided by people"
    yield ""
    yield f"- {FILL} whether these measures suffice, the view of the data protection officer (Art. 35(2)), of those concerned (Art. 35(9))."
    yield f"- {FILL} whether the supervisory authority has to be asked first (Art. 36)."
    yield f"- {FILL} whether the finished model is anonymous (EDPB Opinion 28/2024): evidence is above, the answer is not."
    yield f"- {FILL} date, names, signatures; when it is looked at again."
