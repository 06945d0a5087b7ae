"""Write record files, and a manifest of what they were made from."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinevl.data.built_records import MANIFEST
from spinevl.data.records import records_text
from spinevl.data.study import PatientStudy, record_file
from spinevl.io.files import made_folder, write_text_atomic
from spinevl.io.temporary import remove_leftovers
from spinevl.schema.errors import Problems

log = logging.getLogger(__name__)


def write_records(
    study: PatientStudy,
    subsets: Sequence[str],
    *,
    out: Path,
    output_dir: str | None,
    provenance: Mapping[str, Any],
) -> None:
    """Write the records of some subsets, and ``split.json`` and ``manifest.json`` beside the job.

    Args:
        study: the study.
        subsets: of ``train``, ``dev`` and ``test``.
        out: the job's folder.
        output_dir: another folder for the record files alone: several builds may fill one.
        provenance: what the manifest says of the job.

    Raises:
        UserError: ``output_dir`` cannot be written, or holds such a file with other records. This
            is checked before anything is written.
    """
    folder = made_folder(output_dir, "output_dir") if output_dir else out
    texts: dict[str, str] = {}
    outputs: dict[str, Any] = {}
    for subset in subsets:
        for task in study.tasks.values():
            examples = study.task_examples(task, subset)
            name = record_file(task, subset, study.spec.suffix)
            texts[name] = records_text(examples, with_answer_turn=subset == "train")
            digest = hashlib.sha256(texts[name].encode()).hexdigest()
            outputs[name] = {"records": len(examples), "sha256": digest}
    if output_dir:
        _require_no_others(folder, texts)
        remove_leftovers(folder)
    for name, text in texts.items():
        write_text_atomic(folder / name, text)
    write_split(study, out)
    templates = dict(study.templates)
    manifest = {**study.fingerprint(), "outputs": outputs, "templates": templates, **provenance}
    write_text_atomic(out / MANIFEST, json.dumps(manifest, indent=2))
    total = sum(entry["records"] for entry in outputs.values())
    log.info("%d records in %d files under %s", total, len(texts), folder)


def _require_no_others(folder: Path, texts: Mapping[str, str]) -> None:
    """Refuse a folder in which record files of another build would be overwritten."""
    problems = Problems()
    for name, text in texts.items():
        if (folder / name).exists() and (folder / name).read_bytes() != text.encode():
            fix = "remove it, or name another output_dir or suffix"
            problems.add(str(folder / name), "no file, or these records", "other content", fix)
    problems.raise_any()


def write_split(study: PatientStudy, out: Path) -> None:
    """``split.json``: who trains and who is dev, where patients are split."""
    if study.split is not None:
        summary = study.split.summary(study.tasks)
        write_text_atomic(out / "split.json", json.dumps(summary, indent=2))
