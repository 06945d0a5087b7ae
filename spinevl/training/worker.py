"""Run the training that a folder's spec describes, and keep the best checkpoint.

``python -m spinevl.training.worker OUT [--config-dir DIR] [trusted_targets=[...]]`` does so in a
process of its own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from spinevl.build.trust import NOTHING, Trust
from spinevl.build.worker_words import read_worker_words
from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.native import save_checkpoint
from spinevl.config.options import Resume, TrainerOptions
from spinevl.data.auxiliary_targets import head_sizes
from spinevl.data.datamodule import ExampleDataModule
from spinevl.data.record_files import write_split
from spinevl.data.study import PatientStudy, Study
from spinevl.distributed.group import joined
from spinevl.distributed.ranks import AGENT, barrier, gathered, is_first, world_size
from spinevl.features.store import Features
from spinevl.io.files import write_text_atomic
from spinevl.models.sharded import size_of
from spinevl.models.tuning import freeze_unshown
from spinevl.models.vlm import VLM, learns
from spinevl.report.metrics_file import CURVE_FILE, TRAIN_FILE, read_dev_score
from spinevl.schema.errors import UserError
from spinevl.training.average import AverageWeights
from spinevl.training.callbacks import (
    BestCheckpoint,
    DevEpochs,
    MetricsFile,
    dev_epochs,
)
from spinevl.training.clock import Clock, peak_memory
from spinevl.training.dev_score import dev_score
from spinevl.training.early_stop import EarlyStop
from spinevl.training.kept_checkpoints import KeptCheckpoints
from spinevl.training.launching import (
    check_devices,
    device_of,
    is_launched,
    launch_training,
    processes_of,
)
from spinevl.training.loggers import logged, logger_run, make_loggers
from spinevl.training.memory.keeping import LARGE_MODEL, keep_or_give_back
from spinevl.training.memory.ran_out import memory_told
from spinevl.training.module import TrainingModule
from spinevl.training.prepare import (
    encode_once,
    open_for_training,
    starting_model,
    training_data,
    training_module,
)
from spinevl.training.resume import SaveState
from spinevl.training.spec import SPEC_FILE, TrainSpec
from spinevl.training.stage import frozen, stages_of
from spinevl.training.states import States, made_with
from spinevl.training.stop_signal import StopSignal
from spinevl.training.strategy import building, is_zero
from spinevl.training.task_losses import TaskLosses
from spinevl.training.trainer import make_trainer, quiet, run
from spinevl.training.zero import whole_weights

log = logging.getLogger(__name__)


def train(out: Path, *, trust: Trust = NOTHING, study: Study | None = None) -> float | None:
    """Train; writes ``checkpoint/``, ``metrics.csv`` and ``train.json`` under ``out``.

    Where the spec names several devices, this is one of their processes, all of which call this;
    the first of them writes.

    Args:
        out: the job's folder, where the spec of the training lies.
        trust: what the command line trusts; the spec has no say in it.
        study: the spec's study, where this process has opened it already.

    Returns:
        The best dev score; None where nothing was scored.

    Raises:
        UserError: what the user can mend.
    """
    spec = TrainSpec.read(out / SPEC_FILE)
    with _among_processes(spec.trainer), memory_told(spec, out):
        return _train(spec, out, trust=trust, study=study)


def _train(spec: TrainSpec, out: Path, *, trust: Trust, study: Study | None) -> float | None:
    begun = time.monotonic()
    if study is None:
        study = open_for_training(spec, ("train", "dev"), trust=trust)
    if isinstance(study, PatientStudy) and is_first():
        write_split(study, out)
    states = States(out, made_with(spec, study), keep=spec.trainer.keep)
    start = states.start(anew=spec.resume == Resume.never)
    if states.is_done():
        log.info("the training is complete already; checkpoint in %s", out / "checkpoint")
        return read_dev_score(out)[0]
    quiet()
    pl.seed_everything(spec.seed, workers=True, verbose=False)
    with building(spec.trainer):
        model, parts = starting_model(spec, trust)
    if sum(size_of(one) * one.itemsize for one in model.parameters()) > LARGE_MODEL:
        keep_or_give_back(spec, study, trust=trust)
    heads = head_sizes(study.tasks) if spec.warmup.weight > 0 else {}
    data = training_data(spec, study, model, heads)
    data.collate.check(data.train)
    data.collate.to_score().check(data.dev)
    freeze_unshown(model, data.shown())
    features = encode_once(spec, study, model, data)
    of_tasks: dict[str, float] = {}
    score, measure = dev_score(study, data.dev, of_tasks)
    told = {**study.description(), "fingerprint": study.fingerprint()}
    save = partial(_save, Checkpoint(model, parts, told, spec.checkpoint), spec.trainer)
    kept = KeptCheckpoints(out, save, most=spec.trainer.keep_best)
    best = BestCheckpoint(score, kept, of_tasks, keep=kept.most)
    counts = _sizes(model)
    module = training_module(spec, model, heads, data.stand_ins())
    module.task_losses = TaskLosses(data.train, list(heads))
    clock = Clock()
    learned = [name for name, part in module.parts().items() if learns(part)]
    around: list[pl.Callback] = [clock]
    if is_first():
        around.append(MetricsFile(out / CURVE_FILE, clock, parts=learned))
    with StopSignal() as stop:
        saver = SaveState(
            states, every=spec.trainer.save_every, start=start, begun=begun, stop=stop
        )
        device = _fit_stages(spec, module, data, [*around, saver], best, out=out)
        report = {
            **_report(module, clock, best, features),
            "device": device,
            "seconds": saver.seconds,
            "dev_measure": measure,
            "debug": spec.debug.on,
            **counts,
            "logger": saver.logger,
        }
        if is_first():
            write_text_atomic(out / TRAIN_FILE, json.dumps(report, indent=2, allow_nan=False))
            states.finish()
    said = "nothing to score on dev" if best.score is None else f"{measure} {best.score:.3f}"
    log.info("%s (step %d); checkpoint in %s", said, best.step, out / "checkpoint")
    return best.score


def _fit_stages(
    spec: TrainSpec,
    module: TrainingModule,
    data: ExampleDataModule,
    around: list[Any],
    best: BestCheckpoint,
    *,
    out: Path,
) -> str:
    """Fit stage after stage, with ``around`` in each. Returns the device."""
    data.limit = batches = spec.debug.batches(data.train_batches)  # an epoch
    warmup = spec.warmup.fraction if module.heads else 0.0
    epoch_steps = -(-batches // spec.trainer.accumulate)
    *_, saver = around
    earlier = saver.start and {"step": saver.start.place.step, **saver.start.logger}
    loggers = make_loggers(
        spec.logger,
        out=out,
        hyperparameters=spec.config,
        cache=spec.study.cache_folder,
        earlier=earlier,
    )
    saver.logger = logger_run(loggers)
    for stage in stages_of(spec.epochs, warmup=warmup, epoch_steps=epoch_steps):
        if saver.is_behind(stage):
            continue
        callbacks = list(around)
        if stage.answers:
            dev = dev_epochs(stage.epochs, checks=spec.trainer.dev_checks)
            callbacks[1:1] = [DevEpochs(dev), *_of_answers(spec, best)]
        trainer = make_trainer(spec, stage, callbacks, out=out, loggers=loggers, batches=batches)
        data.first_epoch = stage.first_epoch
        module.begin(stage)
        with nullcontext() if stage.answers else frozen(module.model.llm):
            run(trainer, module, data, state=saver.path_in(stage))
        device = str(trainer.strategy.root_device)
    return device


def _of_answers(spec: TrainSpec, best: BestCheckpoint) -> list[pl.Callback]:
    """What chooses the weights of the stage that trains on answers, in the order of its work."""
    average = [AverageWeights(spec.trainer.ema)] if spec.trainer.ema else []
    stop = [EarlyStop(best, patience=spec.trainer.early_stop)] if spec.trainer.early_stop else []
    return [*average, best, *stop]


@contextmanager
def _among_processes(options: TrainerOptions) -> Iterator[None]:
    """In the group of the training's processes, where there are several."""
    if not is_launched(options):
        yield
        return
    count = processes_of(options) * options.num_nodes
    with joined(device_of(options.accelerator), processes=count):
        yield


def _save(checkpoint: Checkpoint, options: TrainerOptions, folder: Path) -> None:
    """Write the checkpoint; every process calls this, and the first one writes."""
    if is_zero(options):
        checkpoint = replace(checkpoint, weights=whole_weights(checkpoint.model))
    if is_first():
        save_checkpoint(folder, checkpoint)
    barrier()


def _report(
    module: TrainingModule, clock: Clock, best: BestCheckpoint, features: Sequence[Features]
) -> dict[str, Any]:
    """What ``train.json`` says of how the training went; every process must call this."""
    # what one process has encoded the others find
    encoded = sum(gathered(sum(one.encoded for one in features)))
    found = sum(one.encoded + one.found for one in features) - encoded
    return {
        **clock.report(),
        "peak_memory_bytes": max(gathered(peak_memory())),
        "processes": world_size(),
        "steps": module.step,
        "warmup_steps": module.stage.first_step,
        "images_encoded": encoded if features else None,
        "images_cached": found if features else None,
        "dev_score": best.score,
        "dev_score_step": best.step,
        "dev_history": best.history,
    }


def _sizes(model: VLM) -> dict[str, int]:
    """How many parameters there are, in all processes together."""
    return {
        "parameters": sum(map(size_of, model.parameters())),
        "trained_parameters": sum(size_of(p) for p in model.parameters() if p.requires_grad),
    }


def main(words: Sequence[str]) -> int:
    """Train as the spec in a folder says. Returns the exit code, 1 where the user can mend it.

    Args:
        words: see ``work``.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        work(words)
    except UserError as error:
        for line in error.lines:
            print(f"spinevl: {line}", file=sys.stderr)
        return 1
    return 0


def work(words: Sequence[str]) -> None:
    """Train as the spec in a folder says, in this process or in those that it asks for.

    Args:
        words: of the command line, see ``read_worker_words``.

    Raises:
        UserError: what the user can mend.
    """
    out, trust = read_worker_words(words, program="python -m spinevl.training.worker")
    options = TrainSpec.read(out / SPEC_FILE).trainer
    if is_launched(options) and AGENT not in os.environ:
        check_devices(options)
        launch_training(options, out, trust=trust)
    else:
        with logged():
            train(out, trust=trust)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
