"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.peers import targets
from benchmarks.peers.rounds import Result

Section = Mapping[str, Result]


def markdown(
    sections: Mapping[str, Section],
    rates: Mapping[str, float],
    versions: Mapping[str, str],
    told: Mapping[str, Any],
) -> str:
    """The tables: targets, seconds, choices; what was not measured has its reason.

    Args:
        sections, rates: see targets.rows.
        versions: of the packages of each peer.
        told: the settings of the run.
    """
    found = [row.cells() for row in targets.rows(sections, rates)]
    blocks = [
        ["# Ours and its peers"],
        _settings(rates, versions, told),
        ["## Targets", "", *_table(("what", "against", "measured", "target", "reached"), found)],
    ]
    for name, part in sections.items():
        blocks.append([f"## {name}", "", *_section(name, part)])
    if agreements := targets.choices(sections):
        rows = [
            (name, one.told(), "yes" if one.equal else "no") for name, one in agreements.items()
        ]
        heads = ("our choices (cold) and those of", "", "equal but for near ties")
        blocks.append(["## Choices", "", *_table(heads, rows)])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _settings(
    rates: Mapping[str, float], versions: Mapping[str, str], told: Mapping[str, Any]
) -> list[str]:
    lines = [f"- {name}: {value}" for name, value in told.items()]
    lines += [
        f"- matrix product, {dtype}: {rate / 1e9:.0f} GFLOP/s" for dtype, rate in rates.items()
    ]
    return lines + [f"- {name}: {text}" for name, text in versions.items()]


def _section(name: str, part: Section) -> list[str]:
    if name.startswith("train"):
        return _training(part)
    unit = "s a patient, or in all" if name.startswith("generation") else "s a patient"
    rows = [(run, _seconds(one), _gigabytes(one), one.failed or "") for run, one in part.items()]
    told = _table(("", unit, "peak GB", "not measured"), rows)
    for what in _GENERATED:
        if equal := targets.equal_texts(part, what):
            same, count = equal
            told += ["", f"{what}: {same} of {count} answers equal vLLM's to the letter."]
    return told


def _training(part: Section) -> list[str]:
    rows = [
        (run, _rate(one.median), _epoch(part, run), _gigabytes(one), one.failed or "")
        for run, one in part.items()
        if not run.endswith("encoding")
    ]
    told = _table(("", "questions/s", "with encoding", "peak GB", "not measured"), rows)
    return [*told, *_losses(part), *_reuse(part)]


_GENERATED = ("16 tokens", "positioning", "conversations")


def _losses(part: Section) -> Iterator[str]:
    for other in (targets.PLAIN, targets.TRL):
        largest = targets.largest_loss_difference(part, targets.TREE, other)
        if largest is not None:
            yield from ("", f"Largest difference of losses, ours tree and {other}: {largest:.1e}.")


def _reuse(part: Section) -> Iterator[str]:
    tree = part.get(targets.TREE)
    faster = targets.ratio(part.get(targets.PLAIN), tree)
    if tree is None or not tree.answers or faster is None:
        return
    every, computed = map(sum, zip(*(one["tokens"] for one in tree.answers), strict=True))
    reuse = every / computed
    yield ""
    yield f"Token reuse {reuse:.2f}; {faster / reuse:.2f} of it arrives as speed against plain."


def _epoch(part: Section, run: str) -> str:
    if run == targets.TRL:  # it encodes in every step
        return _rate(part[run].median)
    seconds = targets.seconds_an_epoch(part, run)
    return _rate(None if seconds is None else seconds / targets.EPOCH)


def _rate(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1 / seconds:.2f}"


def _seconds(one: Result) -> str:
    return "-" if one.median is None else f"{one.median:.2f}"


def _gigabytes(one: Result) -> str:
    return "-" if one.peak is None else f"{one.peak / 1e9:.2f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
