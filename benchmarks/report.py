"""The results as a table and a picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any


def write(results: dict[str, Any], out: Path) -> None:
    """``bench.md`` and ``bench.png``; the table is printed too."""
    text = table(results)
    (out / "bench.md").write_text(text)
    print(text)
    plot(results, out / "bench.png")


def table(results: dict[str, Any]) -> str:
    """A Markdown table of every figure with its target."""
    predict, train, memory = results["predict"], results["train"], results["memory"]
    seconds, speedup = predict["seconds_a_patient"], predict["speedup"]
    rows = [
        ("predict, s a patient, naive, batch 1", f"{seconds['naive 1']:.2f}", ""),
        ("predict, s a patient, naive, batch 8", f"{seconds['naive 8']:.2f}", ""),
        ("predict, s a patient, ours, cold cache", f"{seconds['cold']:.2f}", ""),
        ("predict, s a patient, ours, warm cache", f"{seconds['warm']:.2f}", ""),
        ("predict, s, ours, warm cache, one patient", f"{seconds['warm, one patient']:.2f}", ""),
        ("cold over naive 1", _times(speedup["cold over naive 1"]), "6x"),
        ("cold over naive 8", _times(speedup["cold over naive 8"]), "3.5x"),
        ("warm over naive 1", _times(speedup["warm over naive 1"]), "8x"),
        ("warm over naive 8", _times(speedup["warm over naive 8"]), "4.5x"),
        ("predict, share of matmul rate, cold", f"{predict['matmul_share']['cold']:.2f}", "0.6"),
        ("predict, share of matmul rate, warm", f"{predict['matmul_share']['warm']:.2f}", "0.6"),
        ("train, questions/s, naive", f"{train['questions_a_second']['naive']:.2f}", ""),
        (
            "train, questions/s, ours, features kept",
            f"{train['questions_a_second']['ours']:.2f}",
            "",
        ),
        ("train, ours over naive", _times(train["speedup"]), "3x"),
        ("train, largest loss difference", f"{train['largest_loss_difference']:.1e}", ""),
        ("train, share of matmul rate", f"{train['matmul_share']:.2f}", "0.6"),
        *((f"peak memory, {name}", f"{value:.2f} GB", "") for name, value in memory.items()),
        *((f"images encoded, {name}", str(n), "") for name, n in results["sweep"].items()),
        *(
            (f"command, {name}", f"{value:.2f} s", "")
            for name, value in results["commands"].items()
        ),
        ("tokens a patient, tree", f"{predict['tokens_a_patient']:.0f}", ""),
        ("tokens a patient, every option alone", f"{predict['tokens_unshared']:.0f}", ""),
        ("GFLOP a patient, cold", f"{predict['gflop_a_patient']['cold']:.0f}", ""),
        ("GFLOP a patient, warm", f"{predict['gflop_a_patient']['warm']:.0f}", ""),
        ("matmul rate", f"{predict['matmul_gflops']:.0f} GFLOP/s", ""),
    ]
    lines = ["| what | measured | target |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def _times(value: float) -> str:
    return f"{value:.1f}x"


def plot(results: dict[str, Any], path: Path) -> None:
    """Bars of the paths, and how ours grows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    growth = results["growth"]
    figure, axes = pyplot.subplots(1, 1 + len(growth), figsize=(15, 3.2), layout="constrained")
    seconds = results["predict"]["seconds_a_patient"]
    colours = ["#98a5b0" if name.startswith("naive") else "#0f6e84" for name in seconds]
    axes[0].barh(list(seconds), list(seconds.values()), color=colours)
    axes[0].invert_yaxis()
    axes[0].set_xlabel("seconds a patient")
    for axis, (name, values) in zip(axes[1:], growth.items(), strict=True):
        axis.plot([int(x) for x in values], list(values.values()), "o-", color="#0f6e84")
        axis.set_xscale("log")
        ticks = [int(x) for x in values]
        near = [low > 0.7 * high for low, high in pairwise([0, *ticks])]
        axis.set_xticks(
            ticks, ["\n" * below + str(x) for x, below in zip(ticks, near, strict=True)]
        )
        axis.minorticks_off()
        axis.tick_params(axis="x", labelsize=8)
        axis.set_ylim(0, 1.1 * max(values.values()))
        axis.set_xlabel(name)
    axes[1].set_ylabel("seconds a patient, warm")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
