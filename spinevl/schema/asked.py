"""Who was asked and who is answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spinevl.schema.errors import Problems, listed

_MOST_LINES = 3  # of more patients one line says how many there are


def compare(asked: Iterable[str], answered: Iterable[str]) -> tuple[list[str], list[str]]:
    """The patients of ``asked`` who have no answer, and those of ``answered`` who were not asked.

    Each once, in its own order.
    """
    wanted, given = dict.fromkeys(asked), dict.fromkeys(answered)
    absent = [one for one in wanted if one not in given]
    surplus = [one for one in given if one not in wanted]
    return absent, surplus


def add_unmatched(
    problems: Problems,
    where: str,
    absent: Sequence[str],
    surplus: Sequence[str],
    *,
    n_asked: int,
    each: str,
    only: str,
    fixes: tuple[str, str],
) -> None:
    """Note what ``compare`` found: a line for each patient, or one for all where there are many.

    Args:
        problems: where they are noted.
        where: the file with what was answered.
        absent, surplus: see compare.
        n_asked: how many patients were asked about.
        each: what every patient must have there.
        only: who may stand there.
        fixes: what to do about an absent patient, and about a surplus one.
    """
    if len(absent) + len(surplus) <= _MOST_LINES:
        for one in absent:
            problems.add(f"{where}: patient {one}", each, "none", fixes[0])
        for one in surplus:
            problems.add(f"{where}: patient {one}", only, "a surplus one", fixes[1])
        return
    found = []
    if absent:
        found.append(f"none for {len(absent)} ({listed(absent, most=_MOST_LINES)})")
    if surplus:
        found.append(f"{len(surplus)} others ({listed(surplus, most=_MOST_LINES)})")
    fix = "; ".join(fix for fix, of in zip(fixes, (absent, surplus), strict=True) if of)
    if len(absent) == n_asked and surplus:
        fix = "check that both files are of the same patients"
    expected = f"{each} for each of {n_asked} patients, and {only}"
    problems.add(where, expected, " and ".join(found), fix)
