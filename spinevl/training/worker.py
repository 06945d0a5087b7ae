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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from spinevl.build.build import build
from spinevl.build.trust import NOTHING, Trust
from spinevl.build.worker_words import read_worker_words
from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import load_checkpoint
from spinevl.checkpoints.native import save_checkpoint
from spinevl.config.options import Resume, TrainerOptions
from spinevl.data.auxiliary_targets import head_sizes
from spinevl.data.datamodule import ExampleDataModule
from spinevl.data.examples import grouped
from spinevl.data.images import ImageStore
from spinevl.data.imbalance import weighted
from spinevl.data.packing.collate import Collator
from spinevl.data.packing.image_input import check_images
from spinevl.data.record_files import write_split
from spinevl.data.study import PatientStudy, Study, open_study, shown_modality
from spinevl.distributed.entry import AGENT
from spinevl.distributed.group import joined
from spinevl.distributed.ranks import barrier, gathered, is_first, world_size
from spinevl.features.store import Features
from spinevl.inference.encode import feature_cache_in, keep_features
from spinevl.io.allocator import give_back_large_blocks
from spinevl.io.files import write_text_atomic
from spinevl.models.assemble import assemble, check_compatible, tuned
from spinevl.models.auxiliary_heads import AuxiliaryHeads
from spinevl.models.held import Held, auto_dtype
from spinevl.models.quantized import check_quantization
from spinevl.models.recompute import recompute_layers
from spinevl.models.tuning import freeze_unshown
from spinevl.models.vlm import VLM, learns
from spinevl.report.metrics_file import CURVE_FILE, TRAIN_FILE, read_dev_score
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import Modality
from spinevl.schema.model_inputs import ImageTensors
from spinevl.training.average import AverageWeights
from spinevl.training.callbacks import (
    BestCheckpoint,
    Clock,
    DevEpochs,
    MetricsFile,
    dev_epochs,
    peak_memory,
)
from spinevl.training.dev_score import dev_score
from spinevl.training.early_stop import EarlyStop
from spinevl.training.launching import (
    check_devices,
    device_of,
    is_launched,
    launch_training,
    processes_of,
)
from spinevl.training.loggers import check_loggers, logged, logger_run, make_loggers
from spinevl.training.module import TrainingModule
from spinevl.training.resume import SaveState
from spinevl.training.spec import SPEC_FILE, TrainSpec
from spinevl.training.stage import frozen, stages_of
from spinevl.training.states import States, made_with
from spinevl.training.stop_signal import StopSignal
from spinevl.training.strategy import is_zero
from spinevl.training.task_losses import TaskLosses
from spinevl.training.trainer import autocast_of, make_trainer, precision_of, quiet, run
from spinevl.training.zero import whole_weights

log = logging.getLogger(__name__)

_LARGE_MODEL = 2**28  # bytes of weights from which memory counts more than time


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
    with _among_processes(spec.trainer):
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
    model, parts = starting_model(spec, trust)
    if sum(one.nbytes for one in model.parameters()) > _LARGE_MODEL:
        give_back_large_blocks()
    heads = head_sizes(study.tasks) if spec.warmup.weight > 0 else {}
    data = training_data(spec, study, model, heads)
    data.collate.check(data.train)
    data.collate.to_score().check(data.dev)
    freeze_unshown(model, data.shown())
    features = _encode_once(spec, study, model, data)
    of_tasks: dict[str, float] = {}
    score, measure = dev_score(study, data.dev, of_tasks)
    told = {**study.description(), "fingerprint": study.fingerprint()}
    checkpoint = Checkpoint(model, parts, told, spec.checkpoint)
    best = BestCheckpoint(
        score, partial(_save, checkpoint, spec.trainer, out / "checkpoint"), of_tasks
    )
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
        # what one process has encoded the others find
        encoded = sum(gathered(sum(one.encoded for one in features)))
        found = sum(one.encoded + one.found for one in features) - encoded
        report = {
            **clock.report(),
            "peak_memory_bytes": max(gathered(peak_memory())),
            "device": device,
            "processes": world_size(),
            "steps": module.step,
            "warmup_steps": module.stage.first_step,
            "seconds": saver.seconds,
            "images_encoded": encoded if features else None,
            "images_cached": found if features else None,
            "dev_score": best.score,
            "dev_measure": measure,
            "dev_score_step": best.step,
            "dev_history": best.history,
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


def open_for_training(
    spec: TrainSpec,
    subsets: Sequence[str] | None,
    *,
    trust: Trust = NOTHING,
    tell: Callable[[str], None] = log.warning,
) -> Study:
    """The study, once device, logger and parts are seen to be what this machine and the data take.

    Args:
        spec: the training; the parts of a checkpoint have been compatible before.
        subsets: see open_study.
        trust: what the command line trusts.
        tell: takes a line that says what will be done another way than asked.

    Raises:
        UserError: a device that is not there, a logger that cannot start or parts that are not
            compatible, before any data are read; or bad data.
    """
    check_devices(spec.trainer)
    if note := check_loggers(spec.logger):
        tell(note)
    for line in spec.left_random:
        tell(line)
    if spec.debug.on:
        tell("debug: this training is only tried; its scores mean nothing")
    if spec.keeps_features:
        spec.study.cache_folder()  # refused here rather than after the data
    check_quantization(spec.parts["llm"], spec.tuning.llm, strategy=spec.trainer.strategy)
    if not spec.checkpoint:
        check_compatible(spec.parts, shows=shown_modality(spec.study), trust=trust)
    return open_study(spec.study, subsets, trust=trust)


def held_of(spec: TrainSpec) -> Held:
    """How the weights of a training are held."""
    precision = precision_of(spec.trainer.precision, spec.trainer.accelerator)
    half = precision == "bf16-mixed"  # whoever asks for another precision is not given this one
    auto = auto_dtype(device_of(spec.trainer.accelerator)) if half else "float32"
    told = {name: node.get("dtype", "auto") for name, node in spec.parts.items()}
    settled = {name: dtype for name, dtype in told.items() if dtype != "auto"}
    return Held(auto, asdict(spec.tuning), settled)


def starting_model(spec: TrainSpec, trust: Trust) -> tuple[VLM, dict[str, Any]]:
    """The model to start from, and its nodes: new parts, or those of a checkpoint."""
    tuning = asdict(spec.tuning)
    held = held_of(spec)
    if not spec.checkpoint:
        model = assemble(
            {**spec.parts, "tuning": tuning}, build=partial(build, trust=trust), held=held
        )
        return model, {**held.settled(spec.parts), "tuning": tuning}
    start = load_checkpoint(spec.checkpoint, allowed=trust.allowed, held=held)
    parts = held.settled(start.parts)
    if (
        parts["llm"].get("conversation") == "pretrain"
    ):  # no way to ask anything: the config says how
        conversation = spec.parts["llm"]["conversation"]
        start.model.llm.conversation = conversation
        parts["llm"] = {**parts["llm"], "conversation": conversation}
    start.model.llm.quantize = spec.parts["llm"].get("quantize")
    return tuned(start.model, tuning), {**parts, "tuning": tuning}


def training_data(
    spec: TrainSpec, study: Study, model: VLM, heads: Mapping[str, int]
) -> ExampleDataModule:
    """The training and dev batches."""
    train = study.examples("train")
    if study.tasks:
        train = weighted(train, study.tasks, class_weights=spec.imbalance.class_weights)
    options = spec.trainer
    collate = Collator(
        model.inputs(),
        ImageStore(study.decode),
        packing=options.packing,
        loss=options.loss,
        learn=True,
        heads=heads,
    )
    if few := spec.debug.overfit_batches * spec.batch_patients * world_size():
        train = [one for group in grouped(train)[:few] for _, one in group]
    return ExampleDataModule(
        train,
        [one for one in study.examples("dev") if one.kind != "box"],
        collate=collate,
        ratios=study.ratios,
        batch_size=spec.batch_patients,
        seed=spec.seed,
        num_workers=options.num_workers,
        accumulate=options.accumulate,
    )


def _encode_once(
    spec: TrainSpec, study: Study, model: VLM, data: ExampleDataModule
) -> list[Features]:
    """Let the image inputs read kept features where the encoder is frozen; check images else."""
    shown = [image for one in (*data.train, *data.dev) for image in one.images]
    features: list[Features] = []
    if spec.keeps_features:
        for branch in model.vision_branches().values():
            branch.encoder.to(device_of(spec.trainer.accelerator)).eval()
        cache = feature_cache_in(spec.study.cache_folder(), spec.feature_cache)
        autocast = autocast_of(spec.trainer)
        features = keep_features(model, cache, data.collate.inputs, shown, autocast=autocast)
    inputs = data.collate.inputs
    # what is kept has been decoded
    unkept = [image for image in shown if inputs[image.modality].features is None]
    check_images(unkept, inputs, decoded=study.images_checked)
    return features


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


def training_module(
    spec: TrainSpec,
    model: VLM,
    heads: Mapping[str, int],
    stand_ins: Mapping[Modality, ImageTensors],
) -> TrainingModule:
    """The steps and optimizers; what does not learn is in evaluation mode and drops nothing out."""
    auxiliary = None
    if heads:
        auxiliary = AuxiliaryHeads(heads, tokens=model.connector.tokens, dim=model.llm.dim)
    module = TrainingModule(
        model,
        auxiliary,
        auxiliary_weight=spec.warmup.weight,
        augment=spec.augment,
        optim=spec.optim,
        seed=spec.seed,
        stand_ins=stand_ins,
    )
    if spec.trainer.gradient_checkpointing:
        recompute_layers(model)
    if spec.trainer.compile:
        model.llm.compile()
    module.train()
    for part in ("encoder", "encoder3d", "llm"):
        if hasattr(model, part) and not learns(getattr(model, part)):
            getattr(model, part).eval()
    return module


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


def _sizes(model: VLM) -> dict[str, int]:
    """How many parameters there are, counted before they are divided among processes."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
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
