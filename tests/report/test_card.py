"""A model card: what commands and configs say stays a value, in YAML and in Markdown."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from spinevl.config.tasks import official_tasks
from spinevl.models.license import license_of
from spinevl.report.card import card

BAD = "x: [\n---\n# <b>|`"
PARTS = {
    "encoder": {"_target_": f"a.{BAD}", "path": BAD},
    "llm": {"_target_": "a.B", "path": "org/name"},
    "tuning": {"encoder": BAD, "llm": "full"},
}


@pytest.mark.parametrize("license_id", ["apache-2.0", "cc-by-4.0", BAD, "1.0", ""])
def test_text_stays_text(license_id: str) -> None:
    study = {"cohort": BAD, "fingerprint": {"inputs": {"labels": BAD}}}
    config = {"parts": PARTS, "study": study, "parent": BAD}
    page = card(config, tasks={}, license_id=license_id, score=None, training=None, form="hf")
    head, _, body = page.removeprefix("---\n").partition("\n---\n")
    front = yaml.safe_load(head)
    assert front["license"] == license_id
    assert front["base_model"] == ["org/name"]
    assert "<b>" not in body
    titles = [line for line in body.splitlines() if line.startswith("#")]
    assert len(titles) == 5


TASKS = official_tasks()
STUDY = {
    "templates": {"qd": "[image]Which curve: [options]?", "zjppt": "[image]<image>\n[label]?"},
    "sag_image": [5, 6],
    "sag_type": "joint",
}


def made(study: dict[str, Any], names: Sequence[str], form: str = "hf") -> str:
    tasks = {name: TASKS[name] for name in names}
    config = {"parts": PARTS, "study": study, "parent": None}
    return card(config, tasks=tasks, license_id="x", score=None, training=None, form=form)


@pytest.mark.parametrize("form", ["hf", "medmvl", "peft"])
@pytest.mark.parametrize(
    ("names", "slices", "asked", "task"),
    [
        # the one without axial images is asked, wherever it stands
        (("zjppt", "qd"), "joint", "<image>\n<image>\nWhich curve: {}?", "qd"),
        (("qd",), "separate", "<image>\nWhich curve: {}?", "qd"),
        (("zjppt",), "joint", "<image>\n<image>\n<image>\nC2-C3?", "zjppt"),
    ],
)
def test_the_card_asks_what_was_trained(
    form: str, names: Sequence[str], slices: str, asked: str, task: str
) -> None:
    page = made({**STUDY, "sag_type": slices}, names, form)
    question = asked.format(", ".join(TASKS[task].options))
    assert f"```text\n{question}\n```" in page
    assert all(one in page for one in TASKS[task].choices)
    assert "THIS_FOLDER" in page
    if form == "hf":
        code = page.partition("```python\n")[2].partition("\n```")[0]
        (line,) = [one for one in code.splitlines() if one.startswith("question = ")]
        parts = ast.literal_eval(line.removeprefix("question = "))
        compile(code, "card", "exec")
        text = "".join("<image>\n" if one["type"] == "image" else one["text"] for one in parts)
        assert text == question
        assert page.count("image1.png") == 1
        assert f"image{question.count('<image>')}.png" in page


def test_a_card_of_conversations_asks_for_a_question_like_theirs() -> None:
    page = made({}, ())
    assert "like those of the training" in page
    assert "```text" not in page


def test_a_question_ends_no_fence() -> None:
    page = made({**STUDY, "templates": {"qd": "[image]```\n# <b>\n[options]"}}, ("qd",))
    assert "````text\n<image>\n<image>\n```\n# <b>" in page


def test_licences_are_those_that_the_parts_files_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "part"
    folder.mkdir()
    node = {"_target_": "a.B", "path": str(folder)}
    assert license_of(node) == "not stated"
    for front, told in (
        ("license: mit", "mit"),
        ("license: other\nlicense_name: gemma", "gemma"),
        ("license: [a", "not stated"),
        ("license: 3", "not stated"),
        ("tags: [x]", "not stated"),
    ):
        (folder / "README.md").write_text(f"---\n{front}\n---\n# Licence: GPL\n")
        assert license_of(node) == told
    snapshot = tmp_path / "hub/models--me--part/snapshots/c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (tmp_path / "hub/models--me--part/refs").mkdir()
    (tmp_path / "hub/models--me--part/refs/main").write_text("c0ffee")
    assert license_of({"path": "me/part"}) == "apache-2.0"
    assert license_of({"path": "me/other"}) == "not stated"
    assert license_of({"path": "/a folder/of another/machine"}) == "not stated"
    assert license_of({"_target_": "a.Tiny"}) == "trained here"
    assert license_of({"package": "no-such-package-here"}) == "not stated"
    assert license_of({"package": "pytest"}) == "MIT"
    page = card(
        {"parts": {**PARTS, "llm": node | {"path": "me/part"}}, "study": {}, "parent": None},
        tasks={},
        license_id="x",
        score=None,
        training=None,
        form="hf",
    )
    assert "| llm | B me/part | full | apache-2.0 |" in page
