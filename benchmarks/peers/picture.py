"""The results as a picture: closed questions, training, and how the cost grows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers import targets
from benchmarks.peers.rounds import Result

OURS, THEIRS = "#0f6e84", "#98a5b0"
TYPES = {"float32": 1.0, "bfloat16": 0.6}
"""Number types, and how opaque their bars are."""

ASKED = {
    "plain loop, batch 8": "plain loop, batch 8",
    "transformers generate, batch 8": "transformers, batch 8",
    targets.BLOCKS: "vLLM, blocks of 32",
    targets.COLD: "spinevl",
    targets.WARM: "spinevl, kept features",
}
TRAINED = {
    targets.TRL: "TRL",
    targets.PLAIN: "spinevl, packed",
    targets.TREE: "spinevl, shared prefixes",
}
LINES = {
    "vLLM": "vLLM, blocks of 32",
    "ours cold": "spinevl",
    "ours warm": "spinevl, kept features",
}

Section = Mapping[str, Result]


def draw(sections: Mapping[str, Section], path: Path) -> bool:
    """Write the picture of what was measured. Returns False, and writes nothing, without any."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        (bars, "predict", ASKED, "seconds a patient (18 questions)"),
        (bars, "train", TRAINED, "seconds a question, training steps"),
        (lines, "growth", LINES, "seconds a patient"),
    ]
    there = [one for one in panels if any(name.startswith(one[1]) for name in sections)]
    if not there:
        return False
    figure, axes = pyplot.subplots(
        1, len(there), figsize=(5 * len(there), 3.4), layout="constrained", squeeze=False
    )
    for axis, (drawn, name, names, label) in zip(axes[0], there, strict=True):
        drawn(axis, {k: v for k, v in sections.items() if k.startswith(name)}, names, label)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


def bars(axis: Any, parts: Mapping[str, Section], names: Mapping[str, str], label: str) -> None:
    """A bar for each run and type, with its number."""
    height = 0.8 / len(TYPES)
    for index, (dtype, opaque) in enumerate(TYPES.items()):
        part = next((one for name, one in parts.items() if name.endswith(dtype)), {})
        for place, (run, told) in enumerate(names.items()):
            median = part[run].median if run in part else None
            if median is None:
                continue
            colour = OURS if told.startswith("spinevl") else THEIRS
            y = place + (index - (len(TYPES) - 1) / 2) * height
            axis.barh(y, median, height, color=colour, alpha=opaque)
            axis.annotate(f" {median:.2f} {dtype}", (median, y), va="center", fontsize=7)
    axis.set_yticks(range(len(names)), list(names.values()))
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set_xlabel(label)


def lines(axis: Any, parts: Mapping[str, Section], names: Mapping[str, str], label: str) -> None:
    """Seconds by tokens an image; another LLM than the first one's is a point of its own."""
    found = {run: one for part in parts.values() for run, one in part.items()}
    for (run, told), style in zip(names.items(), ("s--", "o-", "^-"), strict=True):
        colour = OURS if told.startswith("spinevl") else THEIRS
        grown: list[tuple[int, float]] = []
        for name, one in found.items():
            point, _, whose = name.rpartition(", ")
            tokens = re.match(r"\d+", point)
            if whose != run or tokens is None or one.median is None:
                continue
            if "LLM" in point:
                x = 1.15 * int(tokens[0])
                axis.plot([x], [one.median], style[0], color=colour)
                if run == next(iter(names)):  # the slowest, as a rule
                    size = point.partition(", ")[2]
                    axis.annotate(f"{size}  ", (x, one.median), fontsize=7, ha="right", va="center")
            else:
                grown.append((int(tokens[0]), one.median))
        if grown:
            axis.plot(*zip(*grown, strict=True), style, color=colour, label=told)
            ticks = [x for x, _ in grown]
            axis.set_xscale("log")
            axis.set_xticks(ticks, list(map(str, ticks)))
    axis.minorticks_off()
    axis.set_yscale("log")
    axis.margins(x=0.15, y=0.1)
    axis.set_xlabel("tokens an image")
    axis.set_ylabel(f"{label}, {', '.join(name.split()[-1] for name in parts)}")
    axis.legend(frameon=False, fontsize=8)
