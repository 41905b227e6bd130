"""`make attacks`: every attack that was thought of, the tests that make it, and a table of what became of each.

    python tests/real/attacks.py [--short] [--markdown FILE]

`--short` leaves out the federation of real processes (minutes); what it shows is then marked as not run.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
TESTS = HERE.parents[1]
LIVE = "test_attacks.py"
LIES = f"{LIVE}::test_every_lie_is_named_in_its_round_and_the_honest_hospital_is_in_each"
MANY = "test_ten_thousand_lies.py::test_of_ten_thousand_lies_none_counts_and_each_is_named"
BETWEEN, FRONT, GUARD = "test_between_hospitals.py", "test_front_attacks.py", "test_guard.py"


@dataclass(frozen=True)
class Row:
    """`refused`: by whom and with which code, as the tests assert it. `tests`: FILE::TEST, each of which must pass."""

    attack: str
    refused: str
    tests: Sequence[str]


ROWS = (
    Row("a node that nobody enrolled", "the front: 401 FR-C47; its SuperNode is told to leave",
        [f"{LIVE}::test_who_is_not_enrolled_is_turned_away_by_name",
         f"{FRONT}::test_a_key_that_nobody_enrolled_is_refused_though_it_signs_well",
         "test_front_supernode.py::test_a_supernode_that_nobody_enrolled_is_told_to_leave"]),
    Row("Control called from a hospital's network", "the front: 404 FR-C41, enrolled or not",
        [f"{LIVE}::test_from_a_hospitals_network_there_is_no_control_interface",
         f"{FRONT}::test_even_an_enrolled_site_finds_no_path_but_the_named_ones"]),
    Row("a node that poses as another", "the front by its node, the coordinator by its key: FR-R53, FR-R54, FR-R17",
        [LIES, f"{FRONT}::test_a_site_cannot_answer_for_another",
         f"{FRONT}::test_the_headers_of_one_site_do_not_carry_another_sites_node",
         f"{BETWEEN}::test_what_its_site_did_not_sign_costs_that_site_and_no_other"]),
    Row("a forged update", "FR-R50, FR-R53; 10,000 tries, 0 counted", [LIES, MANY]),
    Row("an update with a bit flipped", "FR-R51, FR-R53; 10,000 tries, 0 counted",
        [LIES, MANY, f"{BETWEEN}::test_of_ten_thousand_changed_letters_none_is_believed"]),
    Row("a replayed update", "FR-R16, FR-R18; 10,000 tries, 0 counted",
        [LIES, MANY, f"{BETWEEN}::test_last_rounds_signed_update_is_not_taken_again",
         f"{FRONT}::test_the_headers_of_another_site_serve_nobody_a_second_time"]),
    Row("an answer announced and never uploaded", "late at its deadline; the others' answers are kept",
        [LIES, "test_pulling.py::test_a_reply_announced_and_never_uploaded_holds_back_no_other"]),
    Row("600 MB from nobody", "the front: 401 or 413 before the body; less than 50 MB of memory",
        [f"{LIVE}::test_600_mb_from_a_stranger_cost_the_coordinator_less_than_50",
         f"{FRONT}::test_600_mb_from_anybody_leave_the_coordinators_memory_as_it_was"]),
    Row("a bundle with Python in it", "the site: FR-E47 with its sum; not installed, not opened",
        ["test_join_real.py::test_a_site_waits_until_it_is_let_in_and_refuses_code",
         "test_join_bundle.py::test_any_other_name_refuses_the_whole"]),
    Row("plaintext to the TLS port", "no word of HTTP",
        [f"{LIVE}::test_the_tls_port_says_no_word_of_http_in_the_clear",
         f"{FRONT}::test_plain_http_to_the_tls_port_gets_no_word_of_http"]),
    Row("an update that declares 10 GB", "the front: 413 FR-C42; inside a message: FR-R10, nothing is set aside",
        [LIES, f"{LIVE}::test_a_body_of_10_gb_is_refused_by_what_it_declares",
         f"{FRONT}::test_an_object_over_the_limit_is_refused_by_what_it_declares",
         "test_leaving_faults.py::test_a_declared_size_costs_nothing_before_its_bytes_are_there"]),
    Row("another shape or dtype, a pickle", "FR-R11, FR-R10",
        [LIES, f"{GUARD}::test_an_update_of_another_network_is_refused",
         "test_leaving_faults.py::test_a_pickle_or_another_file_is_no_message"]),
    Row("NaN", "FR-R12", [LIES, f"{GUARD}::test_one_value_that_is_not_finite_is_enough"]),
    Row("an update times 1000", "FR-R13",
        [LIES, f"{GUARD}::test_an_update_a_thousand_times_too_large_is_refused_of_a_small_network_too"]),
    Row("more cases than there are", "FR-R19", [LIES, f"{BETWEEN}::test_no_site_weighs_more_than_it_enrolled_with"]),
    Row("a study that asks for what is forbidden", "the site: FR-C12 to FR-C19 by rule; it cannot be allowed",
        [f"{LIVE}::test_a_study_that_the_site_forbids_cannot_be_allowed_and_is_refused_by_name",
         "test_permit.py::test_each_rule_of_the_policy_refuses_by_itself",
         "test_permit.py::test_a_study_that_nobody_allowed_is_refused_and_waits"]),
    Row("a journal's line that was changed", "FR-F40 with its number",
        [f"{LIVE}::test_a_line_changed_in_the_journal_is_named",
         "test_chain.py::test_meddling_is_named_by_its_first_line",
         "test_site_verbs.py::test_meddling_with_the_books_is_found"]),
    Row("an invitation that was changed", "FR-C90; nothing is made",
        [f"{LIVE}::test_an_invitation_with_another_address_is_refused_before_anything_is_made",
         "test_join_invitation.py::test_no_field_can_be_changed_after_signing"]),
    Row("all of these in a run: what comes out", "the consensus of the honest hospital alone, to the bit",
        [f"{LIVE}::test_what_comes_out_is_the_model_of_the_honest_hospital_alone",
         f"{LIVE}::test_the_books_of_the_honest_hospital_and_of_the_coordinator_are_whole"]),
    Row("a patient's name in paths, files and exceptions", "in no byte that leaves, in no file of the coordinator",
        ["test_no_name_leaves.py::test_the_hospitals_took_part_and_failed_as_they_were_meant_to",
         "test_no_name_leaves.py::test_no_name_is_in_any_byte_that_left_a_hospital",
         "test_no_name_leaves.py::test_no_name_is_in_any_file_of_the_coordinator",
         "test_no_name_leaves.py::test_without_our_layer_flower_sends_the_name_and_it_is_found",
         "test_join_outgoing.py::test_of_an_error_a_code_is_uploaded_and_no_text"]),
)  # fmt: skip


class Results:
    """A plug-in of pytest: what became of each test function, over all its parameters."""

    def __init__(self) -> None:
        self.outcomes: dict[str, set[str]] = defaultdict(set)
        self.counts: dict[str, int] = defaultdict(int)
        self.measured: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = short(report.nodeid)
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[name].add(report.outcome)
            self.counts[name] += 1
        for key, value in report.user_properties:
            if key == "measured":
                self.measured[name] = str(value)


def short(node: str) -> str:
    file, _, test = node.partition("::")
    return f"{Path(file).name}::{test.partition('[')[0]}"


def paths() -> Mapping[str, Path]:
    return {file.name: file for file in TESTS.rglob("test_*.py")}


def nodes(*, live: bool) -> list[str]:
    """What pytest is asked to run, each once, and those of a file together: its federation is built anew after others."""
    named = dict.fromkeys(test for row in ROWS for test in row.tests)
    where = paths()
    chosen = [test.partition("::") for test in named]
    files = dict.fromkeys(file for file, _, _ in chosen if live or file not in (LIVE, "test_no_name_leaves.py"))
    return [f"{where[file]}::{test}" for wanted in files for file, _, test in chosen if file == wanted]


def verdict(row: Row, results: Results) -> tuple[str, str]:
    """Whether it held, and what was measured or is missing."""
    said = {test: results.outcomes.get(test, {"not run"}) for test in row.tests}
    failed = [test for test, outcomes in said.items() if "failed" in outcomes]
    if failed:
        return "FAILED", ", ".join(failed)
    left = [test for test, outcomes in said.items() if outcomes != {"passed"}]
    passed = sum(results.counts[test] for test in row.tests if test not in left)
    notes = [results.measured[test] for test in row.tests if test in results.measured]
    notes += [f"{len(left)} not run"] if left else []
    return ("held" if not left else "partly" if passed else "not run"), "; ".join([f"{passed} tests", *notes])


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="attacks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args(words)
    results = Results()
    pytest.main(["-q", "--no-header", f"--rootdir={TESTS.parent}", *nodes(live=not chosen.short)], plugins=[results])
    lines = [(row.attack, row.refused, *verdict(row, results)) for row in ROWS]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line[:3], widths, strict=True)), line[3])
    if chosen.markdown:
        head = ["| attack | what becomes of it | | |", "| --- | --- | --- | --- |"]
        chosen.markdown.write_text("\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n", "utf-8")
    enough = {"held", "partly", "not run"} if chosen.short else {"held"}
    return 0 if all(line[2] in enough for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
