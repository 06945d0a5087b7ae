"""Write record files, and a manifest of what they were made from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spinevl.data.records import records_text
from spinevl.io.files import write_text_atomic
from spinevl.schema.errors import Problem, UserError
from spinevl.stages.prepare import Study, load_study, record_file

log = logging.getLogger(__name__)

PACKAGES = ("spinevl", "numpy", "pillow", "hydra-core", "omegaconf")


def main(cfg: DictConfig, *, out: Path) -> None:
    """Build the record files of ``type_dataset``; all is checked before anything is written."""
    wanted = {"both": ("train", "dev")}.get(str(cfg.type_dataset), (str(cfg.type_dataset),))
    study = load_study(cfg, wanted)
    write_records(cfg, study, wanted, out=out)


def write_records(cfg: DictConfig, study: Study, subsets: tuple[str, ...], *, out: Path) -> None:
    """Write the records of some subsets, and ``split.json`` and ``manifest.json`` beside the job.

    ``output_dir`` moves the record files alone: several builds may fill one folder.
    """
    folder = _writable(cfg.output_dir) if cfg.output_dir else out
    texts: dict[str, str] = {}
    counts: dict[str, int] = {}
    for subset in subsets:
        for task in study.tasks.values():
            records = study.task_records(task, subset)
            name = record_file(task, subset, cfg.suffix)
            texts[name] = records_text(records, with_answer_turn=subset == "train")
            counts[name] = len(records)
    for name, text in texts.items():
        write_text_atomic(folder / name, text)
    if study.split is not None:
        summary = study.split.summary(study.tasks)
        write_text_atomic(out / "split.json", json.dumps(summary, indent=2))
    outputs = {
        name: {"records": counts[name], "sha256": hashlib.sha256(text.encode()).hexdigest()}
        for name, text in texts.items()
    }
    manifest = {**fingerprint(study), "outputs": outputs, **environment(cfg)}
    manifest["inputs"] |= {name: _sha256(path) for name, path in _named_files(cfg).items()}
    write_text_atomic(out / "manifest.json", json.dumps(manifest, indent=2))
    log.info("%d records in %d files under %s", sum(counts.values()), len(texts), folder)


def _writable(output_dir: str) -> Path:
    """The folder that the user names, made if need be. Raises UserError where it cannot be."""
    folder = Path(output_dir).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "name another"
        raise UserError(Problem(f"output_dir={output_dir}", "a folder", reason, fix)) from error
    if not os.access(folder, os.W_OK):
        fix = "change its permissions or name another"
        raise UserError(Problem(f"output_dir={output_dir}", "a writable folder", "none", fix))
    return folder


def _named_files(cfg: DictConfig) -> dict[str, Path]:
    """Input files beside the cohort's own: a prompt file, the id files of a split."""
    named = {
        "prompts": cfg.prompts.get("path") if cfg.get("prompts") else None,
        "split_train": cfg.split.get("train") if cfg.get("split") else None,
        "split_dev": cfg.split.get("dev") if cfg.get("split") else None,
    }
    return {name: Path(path).expanduser() for name, path in named.items() if path}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fingerprint(study: Study) -> dict[str, Any]:
    """What the data are: cohort, numbers and the sha256 of every input file."""
    return {
        "cohort": study.cohort.name,
        "synthetic": study.cohort.synthetic,
        "n_labelled": len(study.cohort.patients),
        "n_test": len(study.cohort.test),
        "skipped": list(study.cohort.skipped),
        "inputs": {name: _sha256(path) for name, path in study.cohort.sources.items()},
    }


def environment(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config, the git commit of the working directory and package versions."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return {"config": config, "git_commit": _git_commit(), "versions": _versions(PACKAGES)}


def _git_commit() -> str | None:
    """The commit of the working directory; None outside a repository or without git."""
    command = ["git", "rev-parse", "--verify", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def _versions(packages: tuple[str, ...]) -> Mapping[str, str | None]:
    result: dict[str, str | None] = {}
    for name in packages:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = None
    return result
