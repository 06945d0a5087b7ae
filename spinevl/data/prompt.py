"""Prompt templates: one string a task, with placeholders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from spinevl.io.json_file import field, read_json_object
from spinevl.schema.errors import Problems
from spinevl.schema.task import Task, is_disc

IMAGE = "<image>"
PLACEHOLDERS = ("[image]", "[image_num]", "[label]", "[object]", "[options]")
_NUMBER_WORDS = {1: "", 2: "two", 3: "three"}


def read_templates(path: str | Path) -> dict[str, str]:
    """A user's template file: a JSON object of strings."""
    content = read_json_object(path)
    for name in content:
        field(content, name, str, where=str(path), fix="give a template of text")
    return content


def check_templates(templates: Mapping[str, str], tasks: Mapping[str, Task], *, where: str) -> None:
    """Refuse templates that a selected task lacks or that name unknown placeholders."""
    problems = Problems()
    for task in tasks.values():
        template = templates.get(task.name) or task.prompt
        here = f"{where}: prompt of task {task.name}"
        if not isinstance(template, (str, type(None))):
            problems.add(here, "a template of text", repr(template), "mend it")
            continue
        if not template:
            fix = f"add {task.name!r}, or choose prompts=en or zh"
            problems.add(here, "a template", "none", fix)
            continue
        for name in re.findall(r"\[[A-Za-z][A-Za-z0-9_ -]*\]", template):
            if name not in PLACEHOLDERS:
                known = " ".join(PLACEHOLDERS)
                problems.add(here, f"placeholders among {known}", name, "mend it")
        literal = template.count(IMAGE)
        if literal != int(task.axial):
            wanted = "one literal <image> for the axial image" if task.axial else "no <image>"
            problems.add(here, wanted, str(literal), "mend it")
        elif literal and template.find(IMAGE) < template.find("[image]"):
            problems.add(
                here, "[image] before <image>", "the reverse", "sagittal images come first"
            )
        if task.levels and "[label]" not in template:
            problems.add(here, "[label], the level asked about", "none", "add it")
        if template.count("[image]") != 1:
            found = str(template.count("[image]"))
            problems.add(here, "[image] once, for the sagittal images", found, "mend it")
    problems.raise_any()


def check_line_breaks(templates: Mapping[str, str], *, where: str) -> None:
    """Refuse a backslash and an n: a shell and Hydra pass them on as they are, unlike YAML."""
    problems = Problems()
    for name, template in templates.items():
        if "\\n" in str(template):
            here = f"{where}: prompt of task {name}"
            fix = "write it in a YAML or JSON file, where \\n is one, or as $'...' in the shell"
            problems.add(here, "a line break", "a backslash and an n", fix)
    problems.raise_any()


def render(template: str, *, task: Task, level: str, n_sagittal: int) -> str:
    """The human turn of one question.

    Args:
        template: the task's template.
        task: gives the options.
        level: the level asked about, ``""`` for the whole spine.
        n_sagittal: sagittal images shown.
    """
    values = {
        "[image]": f"{IMAGE}\n" * n_sagittal,
        "[image_num]": _NUMBER_WORDS.get(n_sagittal, str(n_sagittal)),
        "[label]": level,
        "[object]": "intervertebral disc" if is_disc(level) else "cervical vertebrae",
        "[options]": ", ".join(task.options),
    }
    return re.sub(
        "|".join(re.escape(name) for name in PLACEHOLDERS), lambda m: values[m[0]], template
    )
