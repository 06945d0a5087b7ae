"""Record files of an earlier build: a checkpoint must keep the slices and words that it learned."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spinevl.config.check import problems as option_problems
from spinevl.data.prompt import render
from spinevl.data.study_spec import StudySpec
from spinevl.io.json_file import read_json_object
from spinevl.schema.errors import Problems, UserError
from spinevl.schema.example import Example
from spinevl.schema.task import Task

MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


def as_built(spec: StudySpec, files: Collection[str]) -> StudySpec:
    """The study with the slices and prompts of the build whose record files it reads.

    If the manifest is missing or belongs to another build, the study is unchanged, and the records
    must match the command's slices and prompts.

    Args:
        spec: a study with ``records``.
        files: the names of the record files that it reads.

    Raises:
        UserError: a damaged manifest.
    """
    manifest = Path(spec.records or "") / MANIFEST
    if not manifest.is_file():
        return spec
    content = read_json_object(manifest)
    config, outputs = content.get("config"), content.get("outputs")
    if not isinstance(config, Mapping) or not isinstance(outputs, Mapping):
        raise UserError(f"{manifest}: no config or no outputs; the file is damaged, build again")
    if not set(files) <= set(outputs):
        return spec
    told: dict[str, Any] = {key: config[key] for key in ("sag_image", "sag_type") if key in config}
    if "templates" in content:
        told["prompts"] = {"path": None, "templates": content["templates"]}
    if wrong := option_problems(StudySpec, told, partial=True):
        raise UserError(f"{manifest}: {one}; build again" for one in wrong)
    for key in ("sag_image", "sag_type"):
        if key in told and told[key] != getattr(spec, key):
            log.info("%s=%s, as records=%s was built", key, told[key], spec.records)
    return replace(spec, **told)


def require_as_asked(
    examples: Sequence[Example], *, task: Task, template: str, spec: StudySpec, file: Path
) -> None:
    """Refuse records of other slices or words than the study, which a checkpoint keeps.

    Raises:
        UserError: with every such record.
    """
    asked = tuple(spec.sag_image or ())
    joint = task.closed and spec.sag_type == "joint"
    problems = Problems()
    for one in examples:
        where = f"{file}: {one.where}"
        level, shown = one.key.level, one.slices
        question = render(template, task=task, level=level, n_sagittal=len(shown))
        if shown != asked if joint else len(shown) != 1 or shown[0] not in asked:
            wanted = f"sagittal slices of sag_image={list(asked)} sag_type={spec.sag_type}"
            problems.add(where, wanted, str(list(shown)), "set both as its build had them")
        elif one.rounds[0][0] != question:
            found = repr(one.rounds[0][0])
            problems.add(where, f"the question {question!r}", found, "name its build's prompts")
    problems.raise_any()
