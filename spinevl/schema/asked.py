"""Who was asked and who is answered."""

from __future__ import annotations

from collections.abc import Iterable


def compare(asked: Iterable[str], answered: Iterable[str]) -> tuple[list[str], list[str]]:
    """The patients of ``asked`` who have no answer, and those of ``answered`` who were not asked.

    Each once, in its own order.
    """
    wanted, given = dict.fromkeys(asked), dict.fromkeys(answered)
    absent = [one for one in wanted if one not in given]
    surplus = [one for one in given if one not in wanted]
    return absent, surplus
