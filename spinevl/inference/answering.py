"""Ask a checkpoint: here, or in several processes with a device each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

from spinevl.build.trust import NOTHING, Trust
from spinevl.build.worker_words import worker_words
from spinevl.data.examples import grouped
from spinevl.data.study import Study
from spinevl.distributed.launch import launch
from spinevl.inference.answer import Answer, Unanswered
from spinevl.inference.devices import device_count
from spinevl.inference.predictor import is_scored, load_predictor
from spinevl.inference.progress import Progress
from spinevl.inference.spec import FOLDER, PredictSpec, Request, unanswered_file
from spinevl.inference.vllm import llm_in, process_for
from spinevl.io.json_file import read_json_list
from spinevl.io.temporary import remove
from spinevl.schema.errors import Problems, refused
from spinevl.schema.example import Example

log = logging.getLogger(__name__)


def answer(
    spec: PredictSpec,
    asked: Mapping[Request, Sequence[Example]],
    study: Study,
    *,
    out: Path,
    trust: Trust = NOTHING,
) -> dict[Request, list[Answer]]:
    """The answers of a checkpoint to some requests, in the order of their examples.

    They go to files of the job's folder as they come. A job that was killed goes on from them, on
    however many devices.

    Args:
        spec: the checkpoint, and how it answers, settled.
        asked: the examples of each request.
        study: theirs.
        out: the job's folder.
        trust: what the command line trusts.

    Raises:
        UserError: examples that do not fit the model, a patient that it cannot answer, or more
            devices than there are.
        Unanswered: all others are answered, and recorded.
    """
    told: dict[Request, Progress] = {}
    left, writes = 0, False
    for request, examples in asked.items():
        told[request] = progress = spec.progress(request, examples, study, out=out)
        progress.read_shares()
        if progress.done:
            known = f"{len(progress.done)} of {len(examples)}"
            log.info("goes on from %s answers in %s", known, progress.file)
        waiting = [one for index, one in enumerate(examples) if index not in progress.done]
        left = max(left, len(grouped(waiting)))
        writes |= not all(is_scored(one, spec.options) for one in waiting)
    count = min(left, device_count(spec.options.devices, spec.device))
    with llm_in(out, spec, trust=trust) if spec.vllm and writes else nullcontext():
        if count > 1:
            log.info("%d processes answer", count)
            _on_devices(count, spec, told, out=out, trust=trust)
        else:
            _here(spec, asked, told, study, out=out, trust=trust)
    remove(out / FOLDER)
    return {request: _in_order(examples, told[request].done) for request, examples in asked.items()}


def _here(
    spec: PredictSpec,
    asked: Mapping[Request, Sequence[Example]],
    told: Mapping[Request, Progress],
    study: Study,
    *,
    out: Path,
    trust: Trust,
) -> None:
    """Answer in this process; without a model where all is answered."""
    predictor = None
    problems = Problems()
    with process_for(spec, out=out, trust=trust) as engine:
        for request, examples in asked.items():
            answers: Iterable[tuple[int, Answer]] = ()
            if len(told[request].done) < len(examples):
                predictor = predictor or load_predictor(
                    Path(spec.checkpoint),
                    study,
                    options=spec.options,
                    feature_cache=spec.feature_cache,
                    device=spec.device,
                    allowed=trust.allowed,
                    engine=engine,
                )
                answers = predictor.answers(examples, done=told[request].done)
            with problems.collected(Unanswered):
                told[request].record(answers)
    if problems:
        raise Unanswered(problems)


def _on_devices(
    count: int, spec: PredictSpec, told: Mapping[Request, Progress], *, out: Path, trust: Trust
) -> None:
    """Let ``count`` processes answer, each its share, and take in what they write."""
    for progress in told.values():
        progress.merge()  # all start from the same answers
    spec.write(out, list(told))
    files = [unanswered_file(out, rank) for rank in range(count)]
    for file in files:
        file.unlink(missing_ok=True)  # of a job that was cut
    words = worker_words(out, trust)
    launch("spinevl.inference.worker", words, out=out / FOLDER, processes=count)
    for progress in told.values():
        progress.merge()
    listed = [read_json_list(file, expected="problems") for file in files if file.exists()]
    if any(listed):
        raise Unanswered(map(str, chain(*listed)))


def _in_order(examples: Sequence[Example], done: Mapping[int, Answer]) -> list[Answer]:
    """All answers; some are missing where files have changed since the processes read them."""
    missing = [one for index, one in enumerate(examples) if index not in done]
    if missing:
        raise refused(
            missing[0].where,
            "an answer from one of the processes",
            f"none, and none to {len(missing) - 1} others",
            "its images or the checkpoint changed while the job ran: run the command again",
        )
    return [done[index] for index in range(len(examples))]
