"""The main job: build, train, predict, evaluate and report."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.check import from_plain
from spinevl.config.options import PredictOptions
from spinevl.config.plain import plain
from spinevl.data.record_files import write_records
from spinevl.data.study import PatientStudy, require_patients
from spinevl.io.files import write_text_atomic
from spinevl.jobs.folder import read_config, write_config
from spinevl.jobs.provenance import provenance
from spinevl.jobs.status import note_settled
from spinevl.report.metrics_file import CURVE_FILE, write_metrics
from spinevl.schema.errors import UserError
from spinevl.training.loggers import logged

if TYPE_CHECKING:
    from spinevl.inference.spec import PredictSpec
    from spinevl.training.spec import TrainSpec

log = logging.getLogger(__name__)


@logged()
def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> float | None:
    """Run everything; returns the dev score, by which sweepers compare jobs.

    It is None for a study without dev scores (boxes alone) whose test patients were scored.
    """
    from spinevl.inference.outputs import answer_patients, write_outputs
    from spinevl.inference.scoring import score_patients, to_score
    from spinevl.inference.spec import Request
    from spinevl.report.page import write_study_report
    from spinevl.training.fit import fit
    from spinevl.training.log_results import Results, log_results
    from spinevl.training.prepare import open_for_training
    from spinevl.training.spec import TrainSpec

    write_config(out, plain(cfg))
    config = read_config(out)
    spec = TrainSpec.from_config(config)
    study = require_patients(open_for_training(spec, None, trust=trust))
    predict = _predict_spec(spec, out / "checkpoint", config["predict"], trust)
    log.info("%s", study.cohort.name)
    fingerprint = study.fingerprint()
    told = provenance(config, out=out)
    _write_records(study, config, out=out, told=told)
    dev = fit(spec, out, trust=trust, study=study)
    scored = "test" if study.cohort.test_has_truth else "dev"
    given = Request("test" if "test" in study.subsets else scored)  # also where it has no truth
    asked = dict.fromkeys([*to_score(study, scored), given])
    found = answer_patients(_settled(predict, out), list(asked), study, out=out, trust=trust)
    predictions, score = found[Request(scored)], score_patients(study, scored, found)
    write_outputs(study, given.subset, found[given], out=out, dev=found.get(Request("dev")))
    value = write_metrics(score, study.tasks, out=out)
    write_study_report(
        study,
        scored,
        out=out,
        score=score,
        predictions=predictions,
        config=OmegaConf.to_yaml(cfg, resolve=True),
        provenance=told,
        fingerprint=fingerprint,
        curve=out / CURVE_FILE,
    )
    log_results(spec, Results(study, scored, score, predictions, told, fingerprint), out=out)
    log.info("report: %s", out / "report.html")
    return value if dev is None and scored == "dev" else dev


def _write_records(
    study: PatientStudy, config: Mapping[str, Any], *, out: Path, told: Mapping[str, Any]
) -> None:
    """The record files, and the labels of phantoms, whose truth is known."""
    subsets = _subsets(study, config["type_dataset"])
    write_records(study, subsets, out=out, output_dir=config["output_dir"], provenance=told)
    if study.cohort.synthetic:
        truth = [{"id": one.id, **one.labels} for one in study.cohort.test]
        write_text_atomic(out / "test_truth.json", json.dumps(truth, indent=4))


def _subsets(study: PatientStudy, asked: str) -> tuple[str, ...]:
    """Whose record files are written; ``both`` is all that the job uses."""
    if asked not in ("both", *study.subsets):
        raise UserError(f"type_dataset={asked}: the data name no test patients")
    return study.subsets if asked == "both" else (asked,)


def _predict_spec(
    spec: TrainSpec, folder: Path, predict: Mapping[str, Any], trust: Trust = NOTHING
) -> PredictSpec:
    """What the trained model is asked, on the devices that it was trained on."""
    from spinevl.inference.spec import PredictSpec
    from spinevl.inference.vllm import version_for
    from spinevl.training.launching import device_of

    options = from_plain(PredictOptions, predict, at="predict")
    if options.devices is None:
        options = replace(options, devices=spec.trainer.devices)
    return PredictSpec(
        checkpoint=str(folder),
        study=spec.study,
        subsets=None,
        options=options,
        feature_cache=spec.feature_cache,
        device=device_of(spec.trainer.accelerator),
        vllm=version_for(options, trust),
    )


def _settled(predict: PredictSpec, out: Path) -> PredictSpec:
    """With what the trained model decides, which the job notes."""
    settled = predict.settled()
    note_settled(out, settled.told)
    return settled
