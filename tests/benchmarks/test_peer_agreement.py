"""Choices of two engines compared."""

from __future__ import annotations

import pytest

from benchmarks.peers.agreement import NEAR, agreement

TABLES = [[0.7, 0.2, 0.1], [0.495, 0.505], [0.1, 0.9], [0.3, 0.3, 0.4]]
OURS = [0, 1, 1, 2]


def test_equal_choices_have_no_margins() -> None:
    found = agreement(OURS, TABLES, OURS)
    assert (found.questions, found.margins, found.unparsed, found.equal) == (4, (), 0, True)


def test_a_near_tie_is_told_with_its_margin_and_still_counts_as_equal() -> None:
    found = agreement(OURS, TABLES, [0, 0, 1, 2])
    assert found.margins == pytest.approx((0.01,))
    assert found.margins[0] < NEAR
    assert found.equal
    assert "1 of 4" in found.told()
    assert "0.010" in found.told()


def test_margins_come_smallest_first_and_a_wide_one_is_no_tie() -> None:
    found = agreement(OURS, TABLES, [2, 1, 0, 0])
    assert found.margins == pytest.approx((0.1, 0.6, 0.8))
    assert not found.equal


def test_an_answer_that_is_no_option_is_counted_apart() -> None:
    found = agreement(OURS, TABLES, [0, 1, None, 2])
    assert (found.margins, found.unparsed, found.equal) == ((), 1, False)


def test_the_typical_margin_is_the_median_over_all_questions() -> None:
    assert agreement(OURS, TABLES, OURS).typical == pytest.approx(0.5)


def test_answers_to_other_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        agreement(OURS, TABLES, OURS[:3])
