"""A leaderboard as a picture: the scores of each setting, and its difference to the best."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

from spinevl.report.leaderboard.settings import Board, Setting
from spinevl.report.markdown import one_line
from spinevl.schema.errors import escaped

_LONGEST_NAME = 56
_MOST_SETTINGS = 60  # more are no picture any longer; the tables have them
_BAR, _DOT, _TEST, _BAD = "#9db4c0", "#253237", "#c1666b", "#b23a48"


def plot(board: Board) -> bytes:
    """A PNG: a line a setting, best on top.

    On the left bars are means, dots are jobs, and diamonds the mean score of test patients. On the
    right stand the paired differences with their 95 % intervals, where there are any.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: no global state
    from matplotlib.figure import Figure

    shown = board.settings[:_MOST_SETTINGS]
    paired = any(one.paired for one in shown)
    names = [_named(board, one) for one in shown]
    width = 5 + 0.075 * max(map(len, names), default=0) + 3 * paired
    height = 1.4 + 0.32 * max(2, len(names))
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    both = figure.subplots(
        1, 1 + paired, sharey=True, squeeze=False, width_ratios=[3, 2][: 1 + paired]
    )[0]
    _scores(both[0], shown, board)
    both[0].set_yticks(range(len(names)), names, parse_math=False)
    both[0].set_ylim(max(2, len(names)) - 0.5, -0.5)
    if paired:
        _differences(both[1], shown)
    if left := len(board.settings) - len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(shown) + left} settings", fontsize=10)
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in Chinese has no signs; tables have it
        figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def _named(board: Board, one: Setting) -> str:
    name = escaped(one_line(board.name(one)), longest=_LONGEST_NAME)
    return f"{name} (partial)" if one.partial else name


def _scores(axes: Any, shown: Sequence[Setting], board: Board) -> None:
    low = min(0.0, *(row.value for one in shown for row in one.jobs if row.value is not None), 0.0)
    for place, one in enumerate(shown):
        values = [row.value for row in one.counted if row.value is not None]
        if one.value:
            axes.barh(place, one.value.mean, color=_BAR, height=0.6)
            axes.plot(values, [place] * len(values), "o", color=_DOT, markersize=4)
        if board.has_dev and one.scored and one.value:
            axes.plot(one.scored.mean, place, "D", color=_TEST, markersize=5)
        bad = {k: n for k, n in one.statuses.items() if k != "done"}
        told = ", ".join(f"{n} {k}" for k, n in bad.items())
        if not told and one.value is None:
            why = next((row.error for row in one.jobs if row.error), "not ranked")
            told = escaped(one_line(why), longest=_LONGEST_NAME)
        if told:
            axes.annotate(told, (low, place), (4, 0), textcoords="offset points", fontsize=8,
                          va="center", color=_BAD, parse_math=False)  # fmt: skip
    if low == 0:
        axes.set_xlim(left=0)
    name = "dev score" if board.has_dev else board.score_name
    beside = (
        f"; diamonds: {board.score_name}"
        if board.has_dev and any(one.scored for one in shown)
        else ""
    )
    axes.set_xlabel(f"{name} (dots: jobs{beside})")


def _differences(axes: Any, shown: Sequence[Setting]) -> None:
    axes.axvline(0, color=_BAR, linewidth=1)
    for place, one in enumerate(shown):
        if one.paired is None:
            continue
        delta = one.paired.difference
        if delta.ci95:
            axes.plot([delta.ci95.low, delta.ci95.high], [place, place], color=_DOT, linewidth=1.5)
        axes.plot(delta.delta, place, "o", color=_DOT, markersize=5)
    subset = next(one.paired.subset for one in shown if one.paired)
    axes.set_xlabel(f"{subset} score minus the best's (95 %)")
    axes.tick_params(axis="y", length=0)
