"""The scored settings of a leaderboard as a LaTeX table for a paper."""

from __future__ import annotations

from collections.abc import Sequence

from spinevl.report.leaderboard.rows import Spread
from spinevl.report.leaderboard.settings import Board, Setting
from spinevl.report.markdown import one_line

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{one: rf"\{one}" for one in "&%$#_{}"},
}
_HEAD = r"""% \usepackage{booktabs}, and \input this file in a table environment.
% Scores: mean and standard deviation over n trainings that differ in seed and fold alone.
% Partial: graded tasks are missing, so that it does not compare with a full score.
% Difference: to the first row, paired by patient, with its 95 % interval over patients.
"""


def latex(board: Board) -> str:
    r"""A ``tabular`` that needs ``booktabs`` and nothing else.

    Characters beyond ASCII stand as their code, since not every LaTeX has a sign for them.
    """
    shown = [one for one in board.settings if one.value or one.scored]
    paired = any(one.paired for one in shown)
    head = ["", "Setting", "$n$", *(["Dev score"] if board.has_dev else [])]
    head += [board.score_name.capitalize(), *(["Difference"] if paired else [])]
    lines = [[*head, *map(tex_text, board.tasks)]]
    for one in shown:
        spread = one.value or one.scored
        line = [f"{one.rank or ''}", rf"\texttt{{{tex_text(board.name(one))}}}"]
        line += [
            f"{spread.n if spread else 0}",
            *([_spread(one.value, one)] if board.has_dev else []),
        ]
        line += [_spread(one.scored, one), *([_difference(one)] if paired else [])]
        values = [one.task(task) for task in board.tasks]
        lines.append([*line, *(f"{one.mean:.3f}" if one else "" for one in values)])
    columns = "rl" + "r" * (len(lines[0]) - 2)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _row(lines[0]), r"\midrule"]
    body += [*map(_row, lines[1:]), r"\bottomrule", r"\end{tabular}"]
    return _HEAD + "\n".join(body) + "\n"


def tex_text(text: str) -> str:
    """Text of unknown origin as LaTeX that shows just this text."""
    line = "".join(
        one if one.isascii() else one.encode("unicode_escape").decode() for one in one_line(text)
    )
    return "".join(_SPECIAL.get(one, one) for one in line)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _spread(spread: Spread | None, setting: Setting) -> str:
    if spread is None:
        return ""
    sd = rf" \pm {spread.sd:.3f}" if spread.sd is not None else ""
    return f"${spread.mean:.3f}{sd}${' (partial)' if setting.partial else ''}"


def _difference(setting: Setting) -> str:
    if setting.paired is None:
        return ""
    delta = setting.paired.difference
    ci95 = f" [{delta.ci95.low:.3f}, {delta.ci95.high:.3f}]" if delta.ci95 else ""
    return f"${delta.delta:+.3f}{ci95}$"
