"""What a coordinator that lies is told, and what a site that lies can do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedrounds_common.errors import RefusedError, RoundError, UpdateError
from fedrounds_common.masking import site as at_site
from fedrounds_common.masking.shares import join
from fedrounds_common.signing import SigningKey


def masked(village, sites: int = 6, **table: object):
    round_ = village(sites, **table)
    round_.keys()
    round_.shares()
    round_.mask()
    return round_


def test_two_lists_of_who_stayed_shown_to_two_halves_open_nothing(village) -> None:
    # ten sites, needed 7: each half is shown a list of 7 that the other half is not on as a whole
    round_ = masked(village, 10)
    names = sorted(round_.numbers)
    one, two = names[:7], names[3:]
    signed = {name: round_.agree_one(name, one) for name in names[:5]}
    signed |= {name: round_.agree_one(name, two) for name in names[5:]}
    for name in names:
        with pytest.raises(RefusedError, match="FR-C77 5 signatures under the list"):
            at_site.reveal(round_.states[name], round_.rules, signed)


def shares_by_two_lists(round_, colluding: list[str]) -> tuple[str, dict[int, bytes], dict[int, bytes]]:
    """A site, and the shares of its two secrets that come out where its fellows are told that it was lost."""
    names = sorted(round_.numbers)
    honest = [name for name in names if name not in colluding]
    victim, half, numbers = honest[0], len(honest) // 2, at_site.numbers_of(names)
    seeds = {numbers[name]: bytes.fromhex(round_.states[name].got[victim][0]) for name in colluding}
    masks = {numbers[name]: bytes.fromhex(round_.states[name].got[victim][1]) for name in colluding}
    lost = [name for name in names if name != victim]
    for told, who, word, found in (
        (names, honest[:half], "seed", seeds), (lost, honest[half:], "mask", masks),
    ):  # fmt: skip
        state = dict(round_.states)  # those who collude sign both lists, from the state before
        signed = {name: round_.agree_one(name, told) for name in [*who, *colluding]}
        for name in who:
            given = at_site.reveal(round_.states[name], round_.rules, signed)[1]
            found[numbers[name]] = given[f"{word} {victim}"]
        round_.states.update({name: state[name] for name in colluding})
    return victim, seeds, masks


@pytest.mark.parametrize(("threshold", "enough"), [(0.5, 2), (2 / 3, 4)])
def test_a_lying_coordinator_opens_an_update_with_twice_the_needed_less_all_and_not_with_one_fewer(
    village, threshold, enough
) -> None:
    # of ten sites 6 and 7 are needed: whoever colludes signs under both lists, and each list needs so many
    round_ = masked(village, 10, threshold=threshold)
    assert enough == 2 * round_.rules.needed(10) - 10
    victim, seeds, masks = shares_by_two_lists(round_, sorted(round_.numbers)[-enough:])
    wanted, state = round_.rules.holds(10), round_.states[victim]
    assert [join(shares, wanted).hex() for shares in (seeds, masks)] == [state.seed, state.mask]
    round_ = masked(village, 10, threshold=threshold)
    with pytest.raises(RefusedError, match="signatures under the list that this site signed"):
        shares_by_two_lists(round_, sorted(round_.numbers)[1 - enough :])


def test_a_site_signs_one_list_a_round(village) -> None:
    round_ = masked(village)
    names = sorted(round_.numbers)
    round_.agree_one("s001", names)
    with pytest.raises(RefusedError, match="FR-C77 a second list of who stayed"):
        round_.agree_one("s001", names[:-1])


def test_no_site_gives_both_shares_of_one_neighbour(village) -> None:
    round_ = masked(village)
    round_.agree()
    _, given = at_site.reveal(round_.states["s001"], round_.rules, round_.coordinator.signatures)
    names = [word.split()[1] for word in given]
    assert sorted(names) == sorted(set(names)) == sorted(round_.numbers)


def test_shares_are_not_given_before_a_list_is_signed(village) -> None:
    round_ = masked(village)
    with pytest.raises(RefusedError, match="FR-C77 shares before the list"):
        at_site.reveal(round_.states["s001"], round_.rules, {})


def test_signatures_of_others_than_those_who_stayed_do_not_count(village) -> None:
    round_ = masked(village)
    round_.agree()
    forged = dict.fromkeys(round_.coordinator.signatures, round_.coordinator.signatures["s001"])
    with pytest.raises(RefusedError, match="FR-C77 1 signatures"):
        at_site.reveal(round_.states["s001"], round_.rules, forged)


def test_a_list_that_leaves_too_few_is_not_signed(village) -> None:
    round_ = masked(village, 6)
    with pytest.raises(RefusedError, match="FR-C78 2 of 6 sites stayed; 5, as the study says"):
        round_.agree_one("s001", ["s001", "s002"])


def test_a_list_without_the_site_itself_or_with_a_stranger_is_not_signed(village) -> None:
    round_ = masked(village, 6)
    for names in (sorted(round_.numbers)[1:], [*sorted(round_.numbers), "s099"]):
        with pytest.raises(RefusedError, match="FR-C77 a list that does not fit"):
            round_.agree_one("s001", names)


def test_the_same_update_is_in_no_second_sum_with_other_sites(village) -> None:
    # else the two sums' difference would be the update of whoever is in one of them only
    round_ = masked(village, 6)
    names = sorted(round_.numbers)
    with pytest.raises(RefusedError, match="FR-C77 a sum of the same update with other sites"):
        round_.agree_one("s001", names, before=names[:-1])
    assert round_.agree_one("s001", names, before=names)


def test_of_two_lists_signed_in_two_runs_only_the_first_is_opened(village) -> None:
    # of each run the list was signed before either came to a sum, so that the signing saw no other
    round_ = masked(village, 6)
    round_.agree()
    args = round_.states["s001"], round_.rules, round_.coordinator.signatures
    with pytest.raises(RefusedError, match="FR-C77 a sum of the same update with other sites"):
        at_site.reveal(*args, before=sorted(round_.numbers)[:-1])
    assert at_site.reveal(*args, before=sorted(round_.numbers))


def test_lists_of_keys_that_differ_from_site_to_site_end_in_no_shares(village) -> None:
    # one site is shown a round without s006, the others one with it
    round_ = village(6)
    round_.keys()
    without = {name: data for name, data in round_.coordinator.notices.items() if name != "s006"}
    for name in sorted(round_.numbers):
        said = without if name == "s001" else round_.coordinator.notices
        round_.states[name], sealed = at_site.share(
            round_.states[name], round_.rules, said, round_.own[name], round_.known
        )
        if name != "s001":
            round_.coordinator.take_sealed(name, sealed)
            continue
        with pytest.raises(UpdateError, match="FR-R81 shares for 4 sites"):
            round_.coordinator.take_sealed(name, sealed)


def test_a_site_answers_one_list_of_keys(village) -> None:
    round_ = village(4)
    round_.keys()
    round_.shares()
    fewer = {name: data for name, data in round_.coordinator.notices.items() if name != "s004"}
    with pytest.raises(RefusedError, match="FR-C77 another list of keys"):
        at_site.share(round_.states["s001"], round_.rules, fewer, round_.own["s001"], round_.known)


def test_masks_with_other_sites_are_not_made_a_second_time(village) -> None:
    round_ = masked(village, 6)
    fewer = dict(list(round_.coordinator.sealed_for("s001").items())[1:])
    with pytest.raises(RefusedError, match="FR-C77 masks with other sites"):
        at_site.mask_keys(round_.states["s001"], round_.rules, fewer)


def test_keys_of_an_invented_hospital_are_refused(village) -> None:
    round_ = village(4)
    round_.keys()
    stranger = at_site.notice_of(at_site.begin("s004", round_.session), SigningKey.create())
    notices = {**round_.coordinator.notices, "s004": stranger}
    with pytest.raises(RefusedError, match="FR-C79 s004 has another key than the one known here"):
        at_site.share(round_.states["s001"], round_.rules, notices, round_.own["s001"], round_.known)
    known = {name: key for name, key in round_.known.items() if name != "s004"}
    with pytest.raises(RefusedError, match="FR-C79 s004 is not known here"):
        at_site.share(round_.states["s001"], round_.rules, round_.coordinator.notices, round_.own["s001"], known)


def test_a_notice_under_another_key_and_a_signature_of_another_length_are_taken_from_nobody(village) -> None:
    # of one such notice every other site would refuse the whole round
    round_ = village(4)
    known, stranger = round_.known["s001"], SigningKey.create()
    state = at_site.begin("s001", round_.session)
    with pytest.raises(UpdateError, match="FR-R81 a notice that s001 signed with another key"):
        round_.coordinator.hear("s001", at_site.notice_of(state, stranger), known)
    assert round_.coordinator.notices == {}
    round_.coordinator.hear("s001", at_site.notice_of(state, stranger), stranger.public.fingerprint)
    assert set(round_.coordinator.notices) == {"s001"}
    with pytest.raises(UpdateError, match="FR-R81 65 bytes; a signature of 64"):
        round_.coordinator.sign("s001", bytes(65))
    assert round_.coordinator.signatures == {}


def test_keys_of_another_round_are_refused(village) -> None:
    old, new = village(4), village(4)
    new.session = new.coordinator.session = "study/run/2/nonce"
    old.keys()
    new.keys()
    notices = {**new.coordinator.notices, "s002": old.own["s002"]}
    with pytest.raises(UpdateError, match="FR-R81 no notice of s002's keys for this round"):
        at_site.share(new.states["s001"], new.rules, notices, new.own["s001"], new.known)


def test_too_few_or_too_many_sites_are_refused_by_each_site(village) -> None:
    round_ = village(4)
    round_.keys()
    state, args = round_.states["s001"], (round_.coordinator.notices, round_.own["s001"], round_.known)
    with pytest.raises(RefusedError, match="FR-C78 4 sites; 5 to 200"):
        at_site.share(state, replace(round_.rules, minimum=5), *args)
    narrow = replace(round_.rules, field=replace(round_.rules.field, sites=3))
    with pytest.raises(RefusedError, match="FR-C78 4 sites; 3 to 3"):
        at_site.share(state, narrow, *args)


def test_who_stayed_in_parts_without_a_mask_between_them_is_not_signed(village) -> None:
    # a ring of 8 with two neighbours each, of which two opposite ones are lost: two rows of three
    round_ = village(8, neighbours=2, threshold=0.5)
    round_.keys()
    ring = round_.coordinator._graph
    first = "s001"
    near = sorted(ring[first])
    row = [first, near[0]]
    while len(row) < 8:
        row.append(next(name for name in ring[row[-1]] if name not in row))
    round_.shares()
    round_.mask(lost=[row[1], row[5]])
    with pytest.raises(RefusedError, match="FR-C78 sites in parts"):
        round_.agree_one(first, sorted(round_.coordinator.survivors))


def test_one_who_gives_false_shares_is_found_where_enough_true_ones_are_there(village, plain_sum) -> None:
    # of five holders four are enough
    round_ = masked(village, 5)
    round_.agree()
    round_.reveal()
    words = round_.coordinator._given["s001"]
    words.update({word: bytes(32) + b"\1" for word in words})
    np.testing.assert_array_equal(round_.coordinator.sum(), plain_sum(round_, round_.numbers))
    assert round_.coordinator.liars == {"s001"}


def test_of_two_who_give_false_shares_no_sum_comes(village) -> None:
    round_ = masked(village, 5)
    round_.agree()
    round_.reveal()
    for name in ("s001", "s004"):
        words = round_.coordinator._given[name]
        words.update({word: bytes(32) + b"\1" for word in words})
    with pytest.raises(
        RoundError, match="FR-R82 no sum: FR-R81 5 shares that do not give the seed of s001; 4 true ones"
    ):
        round_.coordinator.sum()


def test_of_a_site_that_is_called_lost_its_own_mask_is_not_given_away(village) -> None:
    round_ = masked(village, 5, threshold=0.5)
    stayed = sorted(round_.numbers)[:4]
    signed = {name: round_.agree_one(name, stayed) for name in stayed}
    given = [at_site.reveal(round_.states[name], round_.rules, signed)[1] for name in stayed]
    assert all("mask s005" in words and "seed s005" not in words for words in given)


def test_secrets_are_not_in_the_text_of_a_state(village) -> None:
    round_ = masked(village, 3)
    state = round_.states["s001"]
    assert not any(secret in repr(state) for secret in (state.seed, state.mask, state.box))
    assert state.pair("mask").private.hex() not in repr(state.pair("mask"))
    np.testing.assert_equal(len({state.seed, state.mask, state.box}), 3)
