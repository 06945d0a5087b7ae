"""``report.md`` and ``report.html``: one page a researcher would show."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinevl.data.examples import pictures
from spinevl.data.images import ImageStore
from spinevl.evaluation.join import with_truth
from spinevl.io.files import write_text_atomic
from spinevl.report.curve import charts
from spinevl.report.gallery import ORDER, Pictures, gallery
from spinevl.report.markdown import as_literal, as_markdown, rows, shown_name
from spinevl.report.metrics_file import notes_of_tasks
from spinevl.report.task_details import (
    below,
    classes,
    differences,
    levels,
    metric_of,
    panel,
)
from spinevl.schema.errors import counted, escaped
from spinevl.schema.prediction import Prediction
from spinevl.schema.score import Score
from spinevl.schema.task import Task
from spinevl.sources.phantom import DRAWN

if TYPE_CHECKING:
    import numpy as np

    from spinevl.data.study import PatientStudy
    from spinevl.schema.image_ref import ImageRef

PHANTOM = "Rendered phantoms: no clinical evidence."
CLINICAL = "Not for clinical use."
PRIVACY = "This page contains images and ids of patients."
IDS = "This page contains ids of patients."


def write_study_report(
    study: PatientStudy,
    subset: str,
    *,
    out: Path,
    score: Score,
    predictions: Sequence[Prediction],
    config: str,
    provenance: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    curve: Path | None = None,
) -> None:
    """The report on the answers for the patients of ``dev`` or ``test``, whose truth is known."""
    write_report(
        out,
        score=score,
        predictions=with_truth(predictions, study.patients(subset), study.tasks),
        tasks=study.tasks,
        pictures=pictures(study.examples(subset)),
        load=ImageStore(study.decode).load,
        config=config,
        provenance=provenance,
        fingerprint=fingerprint,
        cohort=study.cohort.name,
        numbers={name: len(study.patients(name)) for name in study.subsets},
        curve=curve,
    )


def write_report(
    out: Path,
    *,
    score: Score,
    predictions: Sequence[Prediction],
    tasks: Mapping[str, Task],
    pictures: Pictures,
    load: Callable[[ImageRef], np.ndarray],
    config: str,
    provenance: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    cohort: str,
    numbers: Mapping[str, int] | None = None,
    curve: Path | None = None,
) -> None:
    """Write both files.

    Args:
        out: the job's folder.
        score: the content of ``metrics.json``.
        predictions: of the scored patients, joined with the truth.
        tasks: the tasks.
        pictures: patient -> the images shown, sagittal ones in the order asked, then axial ones.
        load: an image -> the pixels that the model was shown.
        config: the job's config as YAML.
        provenance: ``versions`` of packages, ``git_commit`` and ``git_dirty``.
        fingerprint: what the data are, see Study.fingerprint.
        cohort: the cohort's name.
        numbers: how many patients are ``train``, ``dev`` and ``test``, as far as the job knows.
        curve: ``metrics.csv`` of the training.
    """
    closed = [task for task in tasks.values() if task.closed]
    boxed = [task for task in tasks.values() if not task.closed]
    cards = gallery(predictions, tasks, pictures=pictures, load=load)
    warnings = _warnings(score, [card["id"] for card in cards])
    paired = differences(score, boxed)
    worse = below(score, tasks)
    notes = notes_of_tasks(score, tasks)
    total = "Score" if score.complete else "Partial score"
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            score=score,
            cohort=cohort,
            warnings=warnings,
            panels=[panel(score, None, total)]
            + [panel(score, task, f"{task.title} · {metric_of(task)}") for task in closed],
            paired=paired,
            below=worse,
            notes=notes,
            classes=[classes(score.tasks[task.name], task) for task in closed],
            levels=[levels(score, task) for task in closed if task.levels],
            positioning=[
                (task, score.tasks[task.name], panel(score, task, f"{task.title} · mean IoU"))
                for task in boxed
                if score.tasks[task.name].value is not None
            ],
            gallery=cards,
            order=ORDER,
            tasks=closed,
            filter_levels=dict.fromkeys(level for task in closed for level in task.levels),
            charts=charts(curve) if curve is not None and curve.is_file() else [],
            config=config,
            data=_data(fingerprint, numbers or {}),
            provenance=provenance,
        )
    )
    write_text_atomic(out / "report.html", page)
    parts = [
        f"# {as_literal(cohort)}",
        " ".join(one for one in warnings if one in (PHANTOM, CLINICAL)),
        f"{counted(score.n_patients, 'patient')}; {as_literal(score.selection or '')}.",
        as_markdown(rows(score, tasks)),
        *([f"Below its best baseline: {as_literal('; '.join(worse))}."] if worse else []),
        *(f"{as_literal(note)}." for note in notes),
        f"95 % intervals: {as_literal(score.notes['ci95'])}.",
        "\n".join(f"- {as_literal(one['name'])}: {one['text']}" for one in paired),
    ]
    write_text_atomic(out / "report.md", "\n\n".join(parts) + "\n")


def _warnings(score: Score, ids: Sequence[str]) -> list[str]:
    """What stands on top of the page. A phantom may be rendered for the labels of a patient."""
    if not score.synthetic:
        return [CLINICAL, PRIVACY]
    given = any(not one.startswith(DRAWN) for one in ids)
    return [PHANTOM, CLINICAL, *([IDS] if given else [])]


def _data(fingerprint: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, str]:
    """What the data are, a line each."""
    sides = {f"{name} patients": str(number) for name, number in numbers.items()}
    names = {"n_labelled": "labelled patients", "n_test": "test patients"}
    told = {
        names.get(key, key): ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in fingerprint.items()
        if key not in ("inputs", "synthetic") and value != []
    }
    inputs = fingerprint.get("inputs", {})
    return told | sides | {f"sha256 of {name}": str(value) for name, value in inputs.items()}


def _printable(value: Any) -> Any:
    """Text with what cannot be printed as its code; lines stay, and what is HTML already."""
    if type(value) is not str or value.isprintable():
        return value
    return "\n".join(escaped(line, longest=sys.maxsize) for line in value.split("\n"))


def _environment() -> Any:
    """Templates in which all text from outside is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("spinevl.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_printable,
    )
    environment.globals |= {"shown_name": shown_name, "counted": counted}
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.2f}"
    return environment
