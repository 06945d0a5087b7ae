"""The model card of an export: what it is, what it was trained on, how it scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spinevl.evaluation.table import as_markdown, rows
from spinevl.schema.task import Task


def card(
    config: Mapping[str, Any],
    *,
    tasks: Mapping[str, Task],
    license_id: str,
    metrics: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
    form: str,
) -> str:
    """A README.md in the Hugging Face format.

    Args:
        config: the checkpoint's.
        tasks: what it was trained to answer; empty where it was conversations.
        license_id: an identifier of the Hugging Face hub, such as ``apache-2.0``.
        metrics: ``metrics.json`` of the run, where it is at hand.
        training: ``train.json`` of the run, where it is at hand.
        form: ``hf``, ``medmvl`` or ``peft``.
    """
    parts, study = config["parts"], config.get("study") or {}
    bases = [base for name, node in parts.items() if name != "tuning" if (base := origin(node))]
    front = [
        "---",
        f"license: {license_id}",
        *(["base_model:", *(f"- {json.dumps(base)}" for base in bases)] if bases else []),
        f"library_name: {'peft' if form == 'peft' else 'transformers'}",
        "pipeline_tag: image-text-to-text",
        "tags: [medical-imaging, mri, spine, vision-language]",
        "---",
    ]
    sections = [
        "# A vision-language model for spine MRI",
        "Trained with spinevl. Not a medical device: for research, never for decisions about a "
        "patient.",
        "## Parts",
        as_markdown(
            [
                ["part", "kind", "tuning"],
                *(
                    [name, _kind(node), str(parts["tuning"].get(name.removesuffix("3d"), ""))]
                    for name, node in parts.items()
                    if name != "tuning"
                ),
            ]
        ),
        "## Training data",
        _data(study),
    ]
    if training:
        told = ("steps", "parameters", "trained_parameters", "dev_score", "device")
        facts = [[name, str(training[name])] for name in told if name in training]
        sections += ["## Training", as_markdown([["what", "value"], *facts])]
    sections += ["## Scores", _scores(metrics, tasks)]
    return "\n".join(front) + "\n\n" + "\n\n".join(sections) + "\n"


def _kind(node: Mapping[str, Any]) -> str:
    return f"{str(node['_target_']).rpartition('.')[2]} {origin(node) or ''}".strip()


def origin(node: Mapping[str, Any]) -> str | None:
    """Where a part came from: a Hugging Face id, a directory or a Python package."""
    return node.get("path") or node.get("package")


def _data(study: Mapping[str, Any]) -> str:
    facts = []
    if study.get("cohort"):
        note = ": rendered images, no clinical evidence" if study.get("synthetic") else ""
        facts.append(["cohort", f"{study['cohort']}{note}"])
    if study.get("task"):
        facts.append(["tasks", ", ".join(study["task"])])
    inputs = (study.get("fingerprint") or {}).get("inputs") or {}
    facts += [[f"sha256 of {name}", f"`{value}`"] for name, value in inputs.items()]
    return as_markdown([["what", "value"], *facts]) if facts else "Not recorded."


def _scores(metrics: Mapping[str, Any] | None, tasks: Mapping[str, Task]) -> str:
    if not metrics:
        return "No `metrics.json` lay beside the checkpoint."
    head = f"On {metrics['n_patients']} patients, with 95 % intervals over patients, and controls:"
    return f"{head}\n\n{as_markdown(rows(metrics, tasks))}"
