"""Answers of a checkpoint for patients, or to conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.data.study import ConversationStudy
from spinevl.jobs.status import note_settled


def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> None:
    """Predict; writes ``predictions.jsonl`` and, with all graded tasks, ``answers.json``.

    Of conversations it writes ``answers.jsonl`` as they come, then ``conversations.json``.
    """
    from spinevl.inference.checkpoint_study import open_checkpoint
    from spinevl.inference.outputs import answer_conversations, answer_patients, write_outputs
    from spinevl.inference.spec import Request

    config: Any = plain(cfg)
    subset = config["subset"]
    spec, study = open_checkpoint(config, (subset,), trust=trust)
    note_settled(out, spec.told)
    if isinstance(study, ConversationStudy):
        answer_conversations(spec, subset, study, out=out, trust=trust)
    else:
        asked = Request(subset)
        found = answer_patients(spec, [asked], study, out=out, trust=trust)
        write_outputs(study, subset, found[asked], out=out)
