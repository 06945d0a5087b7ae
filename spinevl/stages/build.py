"""Write record files, and a manifest of what they were made from."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spinevl.data.records import records_text
from spinevl.schema.files import write_text_atomic
from spinevl.stages.prepare import Study, load_study

log = logging.getLogger(__name__)

PACKAGES = ("spinevl", "numpy", "pillow", "hydra-core", "omegaconf", "iterative-stratification")


def main(cfg: DictConfig, *, out: Path) -> None:
    """Build the record files of ``type_dataset``; all is checked before anything is written."""
    wanted = {"both": ("train", "dev")}.get(str(cfg.type_dataset), (str(cfg.type_dataset),))
    study = load_study(cfg, wanted)
    write_records(cfg, study, wanted, out=out)


def write_records(cfg: DictConfig, study: Study, subsets: tuple[str, ...], *, out: Path) -> None:
    """Write the records of some subsets, ``split.json`` and ``manifest.json``."""
    folder = Path(cfg.output_dir).expanduser().absolute() if cfg.output_dir else out
    suffix = f"_{cfg.suffix}" if cfg.suffix else ""
    texts: dict[str, str] = {}
    counts: dict[str, int] = {}
    for subset in subsets:
        for task in study.tasks.values():
            records = study.task_records(task, subset)
            name = f"{task.name}_{subset}{suffix}.json"
            texts[name] = records_text(records, with_answer_turn=subset == "train")
            counts[name] = len(records)
    for name, text in texts.items():
        write_text_atomic(folder / name, text)
    if study.split is not None:
        summary = study.split.summary(study.tasks)
        write_text_atomic(folder / "split.json", json.dumps(summary, indent=2))
    outputs = {
        name: {"records": counts[name], "sha256": hashlib.sha256(text.encode()).hexdigest()}
        for name, text in texts.items()
    }
    manifest = {**fingerprint(study), "outputs": outputs, **environment(cfg)}
    write_text_atomic(folder / "manifest.json", json.dumps(manifest, indent=2))
    log.info("%d records in %d files under %s", sum(counts.values()), len(texts), folder)


def fingerprint(study: Study) -> dict[str, Any]:
    """What the data are: cohort, numbers and the sha256 of every input file."""
    return {
        "cohort": study.cohort.name,
        "synthetic": study.cohort.synthetic,
        "n_labelled": len(study.cohort.patients),
        "n_test": len(study.cohort.test),
        "skipped": list(study.cohort.skipped),
        "inputs": {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in study.cohort.sources.items()
        },
    }


def environment(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config, the git commit of the working directory and package versions."""
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return {
        "config": config,
        "git_commit": found.stdout.strip() or None,
        "versions": _versions(PACKAGES),
    }


def _versions(packages: tuple[str, ...]) -> Mapping[str, str | None]:
    result: dict[str, str | None] = {}
    for name in packages:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = None
    return result
