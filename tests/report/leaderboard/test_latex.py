"""The LaTeX table shows the text of jobs literally."""

from __future__ import annotations

import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest

from spinevl.report.leaderboard.latex import latex, tex_text
from spinevl.report.leaderboard.rows import Row
from spinevl.report.leaderboard.settings import Board


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b=50%", r"a\_b=50\%"),
        ("$x$ & #1", r"\$x\$ \& \#1"),
        ("{r:4}", r"\{r:4\}"),
        ("a~b^c", r"a\textasciitilde{}b\textasciicircum{}c"),
        (r"C:\new", r"C:\textbackslash{}new"),
        ("<|>", r"\textless{}\textbar{}\textgreater{}"),
        ("a\nb\x1b", r"a b\textbackslash{}x1b"),
        ("病é", r"\textbackslash{}u75c5\textbackslash{}xe9"),
    ],
)
def test_special_characters_are_shown_as_they_are(text: str, shown: str) -> None:
    assert tex_text(text) == shown


def test_every_row_has_a_cell_for_each_column() -> None:
    bad = r"data.labels=/a_b/&%$#{}~^\x"
    rows = [
        Row("0", 0, (bad, "seed=0"), "done", None, 1.0, dev=0.5),
        Row("1", 1, (bad, "seed=1"), "done", None, 1.0, dev=0.7),
        Row("2", 2, ("sag_image=[5,6]",), "done", None, 1.0, dev=0.25),
        Row("3", 3, ("encoder=clip",), "failed", "no", 1.0),
    ]
    text = latex(Board.of(rows))
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert (body[0], body[-1]) == (r"\begin{tabular}{rlrrr}", r"\end{tabular}")
    assert [line for line in body if line.endswith("rule")] == [
        r"\toprule", r"\midrule", r"\bottomrule"
    ]  # fmt: skip
    lines = [line for line in body if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {4}
    assert lines[1].startswith("1 & ")
    assert r"$0.600 \pm 0.141$" in lines[1]
    assert lines[2].startswith(r"2 & \texttt{sag\_image=[5,6]} & 1 & $0.250$")
    assert "clip" not in text
    # what is no command, escaped or of a comment stands in pairs
    plain = re.sub(r"\\[\\&%$#_{}]", "", "\n".join(body))
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert not re.search(r"[#%~^]", plain)


def test_a_partial_score_is_told_from_a_full_one() -> None:
    rows = [
        Row("0", 0, ("task=[qd]",), "done", None, 1.0, dev=0.9, partial_dev=True),
        Row("1", 1, ("task=all",), "done", None, 1.0, dev=0.5),
    ]
    lines = [line for line in latex(Board.of(rows)).splitlines() if "texttt" in line]
    assert [("partial" in line, "0.900" in line) for line in lines] == [
        (False, False), (True, True)
    ]  # fmt: skip


@pytest.mark.skipif(
    not all(map(shutil.which, ("pdflatex", "kpsewhich")))
    or subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).returncode,
    reason="LaTeX with booktabs is not installed",
)
def test_any_text_compiles_with_booktabs_alone(tmp_path: Path) -> None:
    texts = [string.printable, "[5,6]", "病é'`--<<>>,,", "^^M \\end{tabular}", "a%\\"]
    rows = [Row(str(k), k, (text,), "done", None, 1.0, dev=k / 9) for k, text in enumerate(texts)]
    (tmp_path / "board.tex").write_text(latex(Board.of(rows)))
    page = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{board}\end{document}"
    )
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
