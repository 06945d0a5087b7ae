"""Build the record files of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.data.record_files import write_records
from spinevl.data.study import open_study, require_patients
from spinevl.data.study_spec import StudySpec
from spinevl.jobs.provenance import provenance


def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> None:
    """Build the record files of ``type_dataset``; all is checked before anything is written."""
    config: Any = plain(cfg)
    wanted = {"both": ("train", "dev")}.get(config["type_dataset"], (config["type_dataset"],))
    spec = StudySpec.from_config(config)
    study = require_patients(open_study(spec, wanted, trust=trust))
    write_records(
        study,
        wanted,
        out=out,
        output_dir=config["output_dir"],
        provenance=provenance(config, out=out),
    )
