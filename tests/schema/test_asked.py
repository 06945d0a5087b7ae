"""Who was asked and who is answered."""

from __future__ import annotations

import time

from spinevl.schema.asked import compare


def test_both_sides_are_told_once_in_their_own_order() -> None:
    assert compare("cab", "bdbed") == (["c", "a"], ["d", "e"])
    assert compare("ab", iter("ba")) == ([], [])


def test_the_time_grows_with_the_patients_and_not_with_their_square() -> None:
    ids = [f"patient-{k}" for k in range(100_000)]
    begun = time.perf_counter()
    assert compare(ids, reversed(ids)) == ([], [])
    assert time.perf_counter() - begun < 5
