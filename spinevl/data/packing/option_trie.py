"""Where the options of a question part, token by token.

The options of a question share tokens, and often only one of them tells which option it is: what
follows is forced. Decoding that is held to the options writes one of them and chooses at the
branchings alone, among the tokens with which some option goes on (constrained decoding, as vLLM,
Outlines and Guidance do it). So the probability of an option is the product of those choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from spinevl.data.packing.prefix_tree import shared


@dataclass(frozen=True)
class Branching:
    """A choice on the way to an option.

    Attributes:
        place: position in the sequence of the token that is chosen; the one before it predicts it.
        allowed: the tokens to choose from, in ascending order.
    """

    place: int
    allowed: tuple[int, ...]


def branchings(options: Sequence[Sequence[int]]) -> list[list[Branching]]:
    """The choices on the way to each option, in order.

    Args:
        options: the symbols of each, from the start of the prompt to the end of the answer.

    Returns:
        A list for each option; it is empty for an option without another one to tell it from.
    """
    found: list[list[Branching]] = [[] for _ in options]
    groups = [(0, list(range(len(options))))]
    while groups:
        place, members = groups.pop()
        while len(members := [one for one in members if place < len(options[one])]) > 1:
            in_order = sorted(tuple(options[one]) for one in members)
            # what the first and the last share, all between them share
            place = shared(in_order[0], in_order[-1], start=place)
            after: dict[int, list[int]] = {}
            for one in members:
                if place < len(options[one]):
                    after.setdefault(options[one][place], []).append(one)
            if len(after) > 1:
                allowed = tuple(sorted(after))
                for one in chain.from_iterable(after.values()):
                    found[one].append(Branching(place, allowed))
                groups += [(place + 1, group) for group in after.values()]
                break
    return found
