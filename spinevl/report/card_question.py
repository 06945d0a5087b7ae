"""The question that a model card asks: one that the model was trained on, in the same words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spinevl.data.prompt import IMAGE, render
from spinevl.report.markdown import as_literal
from spinevl.schema.task import Task


@dataclass(frozen=True)
class Question:
    """A question of a training.

    Attributes:
        content: of the user's turn, as Python writes it: images and texts.
        files: the names of its images, as Python writes them.
        told: the question and its answers for readers; empty where no task was trained on.
    """

    content: str
    files: str
    told: str = ""


def first_question(study: Mapping[str, Any], tasks: Mapping[str, Task]) -> Question:
    """A question of the first closed task, if possible of one that shows sagittal images alone.

    Args:
        study: what the checkpoint was trained on, see PatientStudy.description.
        tasks: its tasks; without any it was trained on conversations.
    """
    closed = [one for one in tasks.values() if one.closed]
    task = min(closed, key=lambda one: one.axial, default=None)
    template = (study.get("templates") or {}).get(task.name) if task else None
    if task is None or not isinstance(template, str):
        return _question(f"{IMAGE}\na question like those of the training")
    slices = list(study.get("sag_image") or [])
    joint = study.get("sag_type") != "separate"
    level = task.objects[0]
    text = render(template, task=task, level=level, n_sagittal=len(slices) if joint else 1)
    fence = "`" * max([2, *map(len, re.findall("`+", text))]) + "`"
    told = (
        f"This is a question of its training ({as_literal(task.title)}), with one "
        f"`{IMAGE}` for each image. Its answers there: "
        f"{as_literal(', '.join(task.choices))}.\n\n{fence}text\n{text}\n{fence}"
    )
    return _question(text, told)


def _question(text: str, told: str = "") -> Question:
    """The parts of a turn; a chat template of ours writes each image with a line break behind."""
    parts = []
    for piece in re.split(rf"({IMAGE}\n?)", text):
        if piece.startswith(IMAGE):
            parts.append({"type": "image"})
        elif piece:
            parts.append({"type": "text", "text": piece})
    n_images = len(parts) - sum("text" in one for one in parts)
    files = [f"image{k + 1}.png" for k in range(n_images)]
    return Question(json.dumps(parts, ensure_ascii=False), json.dumps(files), told)
