"""Answer a share of what a job's folder asks, in a process of its own.

``launch`` starts one for each device. There is no process group: every process reads the same
files, takes every N-th batch, and writes its answers to a file of its own, which the job merges.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from spinevl.build.trust import NOTHING, Trust
from spinevl.build.worker_words import read_worker_words
from spinevl.data.study import open_study
from spinevl.distributed.ranks import rank, world_size
from spinevl.inference.answer import Unanswered
from spinevl.inference.predictor import load_predictor
from spinevl.inference.spec import PredictSpec, unanswered_file
from spinevl.inference.vllm import process_for
from spinevl.io.files import write_text_atomic
from spinevl.schema.errors import Problems


def work(words: Sequence[str]) -> None:
    """Answer this process's share on its device; see ``worker_words``."""
    out, trust = read_worker_words(words)
    answer_share(out, rank=rank(), of=world_size(), trust=trust)


def answer_share(out: Path, *, rank: int, of: int, trust: Trust = NOTHING) -> None:
    """Answer one of ``of`` shares, and record the answers beside those of the others.

    Args:
        out: the job's folder, where the spec of the answers lies.
        rank, of: which share of how many.
        trust: what the command line trusts; the spec has no say in it.

    Raises:
        UserError: what the user can mend.
    """
    spec = PredictSpec.read(out)
    device = spec.device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    logging.disable(logging.WARNING)  # the job has opened the study too, and told what there is
    try:
        study = open_study(spec.study, spec.subsets, trust=trust)
    finally:
        logging.disable(logging.NOTSET)
    one = process_for(spec, out=out, trust=trust, device=device, rank=rank, of=of)
    with one as engine:
        predictor = load_predictor(
            Path(spec.checkpoint),
            study,
            options=spec.options,
            feature_cache=spec.feature_cache,
            device=device,
            allowed=trust.allowed,
            engine=engine,
        )
        problems = Problems()
        for request in spec.requests:
            examples = request.examples(study)
            progress = spec.progress(request, examples, study, out=out)
            answers = predictor.answers(examples, done=progress.done, rank=rank, of=of)
            with problems.collected(Unanswered):
                progress.share(rank, of).record(answers)
    if problems:  # the job tells them when all processes are done
        write_text_atomic(unanswered_file(out, rank), json.dumps(problems, ensure_ascii=False))
