"""The report of ``run`` for a checkpoint that is there already: predict, evaluate and show."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.data.study import PatientStudy, require_patients
from spinevl.jobs.folder import read_config, write_config
from spinevl.jobs.provenance import provenance
from spinevl.jobs.status import note_settled
from spinevl.report.metrics_file import CURVE_FILE, write_metrics
from spinevl.schema.errors import refused

log = logging.getLogger(__name__)


def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> float | None:
    """Write predictions, ``metrics.json`` and the report; returns the score."""
    from spinevl.inference.checkpoint_study import open_checkpoint
    from spinevl.inference.outputs import answer_patients, write_outputs
    from spinevl.inference.scoring import score_patients, to_score
    from spinevl.inference.spec import Request
    from spinevl.report.page import write_study_report

    write_config(out, plain(cfg))
    config = read_config(out)
    opened = {"dev": ("train", "dev"), "test": ("train", "dev", "test")}.get(config["subset"])
    spec, opened_study = open_checkpoint(config, opened, trust=trust)
    note_settled(out, spec.told)
    study = require_patients(opened_study)
    subset = _subset(study, config["subset"])
    log.info("%s: %s", study.cohort.name, study.summary(subset))
    found = answer_patients(spec, to_score(study, subset), study, out=out, trust=trust)
    predictions = found[Request(subset)]
    score = score_patients(study, subset, found, selection=_selection(config))
    write_outputs(study, subset, predictions, out=out)
    value = write_metrics(score, study.tasks, out=out)
    fingerprint = study.fingerprint()
    write_study_report(
        study,
        subset,
        out=out,
        score=score,
        predictions=predictions,
        config=OmegaConf.to_yaml(cfg, resolve=True),
        provenance=provenance(config, out=out),
        fingerprint=fingerprint,
        curve=Path(spec.checkpoint).parent / CURVE_FILE,
    )
    log.info("report: %s", out / "report.html")
    return value


def _subset(study: PatientStudy, asked: str | None) -> str:
    """The patients to report on: those asked for, or the test patients where they have labels."""
    labelled = "test" in study.subsets and study.has_truth("test")
    if asked == "test" and not labelled:
        raise refused(
            "subset=test",
            "test patients whose labels are known",
            f"none in {study.cohort.name}",
            "take subset=dev",
        )
    return asked or ("test" if labelled else "dev")


def _selection(config: dict[str, Any]) -> str | None:
    """How the patients had to do with the training, where the command names others."""
    named = [f"{key}=" for key in ("data", "split") if config[key]]
    if not named:
        return None
    return f"named by {' and '.join(named)}; the training may have used some of them"
