"""Where options part, against walking the options token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinevl.data.packing.option_trie import Branching, branchings

PROMPT = (9, 9, 8)


def test_a_choice_stands_where_options_part_and_nowhere_else() -> None:
    options = [(5, 1, 2, 3), (5, 1, 4, 3), (5, 6, 7, 3)]
    assert branchings(options) == [
        [Branching(1, (1, 6)), Branching(2, (2, 4))],
        [Branching(1, (1, 6)), Branching(2, (2, 4))],
        [Branching(1, (1, 6))],
    ]


def test_an_option_that_another_one_begins_with_ends_in_a_choice() -> None:
    end, more = 0, 7
    assert branchings([(1, 2, end), (1, 2, more, end)]) == [[Branching(2, (0, 7))]] * 2


@pytest.mark.parametrize("options", [[(1, 2, 3)], [(1, 2, 3), (1, 2, 3)], []])
def test_options_that_nothing_tells_apart_have_no_choice(options: list[tuple[int, ...]]) -> None:
    assert branchings(options) == [[] for _ in options]


def weight(before: Sequence[int], token: int) -> Fraction:
    """How much a made-up model wants a token behind others; any fixed positive numbers will do."""
    return Fraction(1 + hash((tuple(before), token)) % 97)


def walked(option: Sequence[int], options: Sequence[Sequence[int]]) -> Fraction:
    """The probability that decoding which is held to the options writes this one."""
    result = Fraction(1)
    for place, token in enumerate(option):
        before = tuple(option[:place])
        going_on = {one[place] for one in options if tuple(one[:place]) == before}
        result *= weight(before, token) / sum(weight(before, one) for one in going_on)
    return result


words = st.lists(st.integers(1, 3), max_size=6).map(lambda word: (*PROMPT, *word, 0))


@settings(deadline=None, max_examples=200)
@given(st.lists(words, min_size=1, max_size=8, unique=True))
def test_the_product_of_the_choices_is_the_probability_of_decoding_held_to_the_options(
    options: list[tuple[int, ...]],
) -> None:
    found = []
    for option, choices in zip(options, branchings(options), strict=True):
        product = Fraction(1)
        for one in choices:
            before = option[: one.place]
            total = sum(weight(before, token) for token in one.allowed)
            product *= weight(before, option[one.place]) / total
        assert product == walked(option, options)
        found.append(product)
    assert math.isclose(sum(found), 1)
