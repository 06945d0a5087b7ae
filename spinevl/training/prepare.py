"""What a training is made of before its first step: the study, the model, its batches and steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from spinevl.build.build import build
from spinevl.build.trust import NOTHING, Trust
from spinevl.checkpoints.load import load_checkpoint
from spinevl.config.options import Attention
from spinevl.data.datamodule import ExampleDataModule
from spinevl.data.examples import grouped
from spinevl.data.images import ImageStore
from spinevl.data.imbalance import weighted
from spinevl.data.packing.collate import Collator
from spinevl.data.packing.image_input import check_images
from spinevl.data.study import Study, open_study, shown_modality
from spinevl.distributed.ranks import world_size
from spinevl.features.store import Features
from spinevl.inference.encode import feature_cache_in, keep_features
from spinevl.models.assemble import assemble, check_compatible, tuned
from spinevl.models.auxiliary_heads import AuxiliaryHeads
from spinevl.models.half_speed import computes_in_bfloat16
from spinevl.models.held import DType, Held
from spinevl.models.quantized import check_quantization
from spinevl.models.recompute import recompute_layers
from spinevl.models.vlm import VLM, learns
from spinevl.schema.cohort import Watch
from spinevl.schema.image_ref import Modality
from spinevl.schema.model_inputs import ImageTensors
from spinevl.training.launching import check_devices, device_of
from spinevl.training.loggers import check_loggers
from spinevl.training.module import TrainingModule
from spinevl.training.spec import TrainSpec
from spinevl.training.strategy import is_zero
from spinevl.training.trainer import autocast_of, precision_of

log = logging.getLogger(__name__)


def open_for_training(
    spec: TrainSpec,
    subsets: Sequence[str] | None,
    *,
    trust: Trust = NOTHING,
    tell: Callable[[str], None] = log.warning,
    watch: Watch | None = None,
) -> Study:
    """The study, once device, logger and parts are seen to be what this machine and the data take.

    Args:
        spec: the training; the parts of a checkpoint have been compatible before.
        subsets: see open_study.
        trust: what the command line trusts.
        tell: takes a line that says what will be done another way than asked.
        watch: see StudyRequest.

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
    return open_study(spec.study, subsets, trust=trust, watch=watch)


def held_of(spec: TrainSpec) -> Held:
    """How the weights of a training are held."""
    options = spec.trainer
    precision = precision_of(options.precision, options.accelerator)
    half = precision == "bf16-mixed"  # whoever asks for another precision is not given this one
    able = half and computes_in_bfloat16(device_of(options.accelerator))
    auto: DType = "bfloat16" if able else "float32"
    told = {name: node.get("dtype", "auto") for name, node in spec.parts.items()}
    settled = {name: dtype for name, dtype in told.items() if dtype != "auto"}
    every: DType | None = "bfloat16" if half and is_zero(options) else None
    return Held(auto, asdict(spec.tuning), settled, every)


def starting_model(spec: TrainSpec, trust: Trust) -> tuple[VLM, dict[str, Any]]:
    """The model to start from, and its nodes: new parts, or those of a checkpoint."""
    tuning = asdict(spec.tuning)
    held = held_of(spec)
    if not spec.checkpoint:
        model = assemble(
            {**spec.parts, "tuning": tuning}, build=partial(build, trust=trust), held=held
        )
        model.compute_plainly(spec.trainer.plain_layers)
        return model, {**held.settled(spec.parts), "tuning": tuning}
    start = load_checkpoint(spec.checkpoint, allowed=trust.allowed, held=held)
    parts = held.settled(start.parts)
    llm = parts["llm"]
    if llm.get("conversation") == "pretrain":  # no way to ask anything: the config says how
        conversation = spec.parts["llm"]["conversation"]
        start.model.llm.conversation = conversation
        parts["llm"] = {**llm, "conversation": conversation}
    start.model.llm.quantize = spec.parts["llm"].get("quantize")
    start.model.compute_plainly(spec.trainer.plain_layers)
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
        attention=options.attention,
        loss=options.loss,
        learn=True,
        scoring=spec.scoring,
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


def encode_once(
    spec: TrainSpec, study: Study, model: VLM, data: ExampleDataModule
) -> list[Features]:
    """Let the image inputs read kept features where the encoder is frozen; check images else."""
    shown = [image for one in (*data.train, *data.dev) for image in one.images]
    inputs = data.collate.inputs
    features: list[Features] = []
    if spec.keeps_features:
        for branch in model.vision_branches().values():
            branch.encoder.to(device_of(spec.trainer.accelerator)).eval()
        cache = feature_cache_in(spec.study.cache_folder(), spec.feature_cache)
        autocast = autocast_of(spec.trainer)
        features = keep_features(model, cache, inputs, shown, autocast=autocast, uses=spec.epochs)
    # what is kept has been decoded
    unkept = [image for image in shown if inputs[image.modality].features is None]
    check_images(unkept, inputs, decoded=study.images_checked)
    return features


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
    if spec.trainer.attention == Attention.flex:
        model.llm.check_flex(learn=learns(model.llm))
    if spec.trainer.gradient_checkpointing:
        recompute_layers(model)
    if spec.trainer.compile:
        model.llm.compile()
    module.train()
    for part in ("encoder", "encoder3d", "llm"):
        if hasattr(model, part) and not learns(getattr(model, part)):
            getattr(model, part).eval()
    return module
