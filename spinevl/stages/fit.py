"""Fit a model: what every training does, whatever its data are."""

from __future__ import annotations

import json
import logging
import resource
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from spinevl.config.options import PRECISIONS, LoggerOptions
from spinevl.io.files import write_text_atomic
from spinevl.schema.dialogue import Picture
from spinevl.schema.errors import UserError
from spinevl.schema.image_ref import Modality
from spinevl.stages.prepare import feature_cache, part_nodes

if TYPE_CHECKING:
    import torch

    from spinevl.data.datamodule import BatchDataModule
    from spinevl.data.packing.image_input import ImageInput
    from spinevl.features.store import Features
    from spinevl.models.auxiliary_heads import AuxiliaryHeads
    from spinevl.models.vlm import VLM
    from spinevl.schema.batch import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """One training.

    Attributes:
        model, parts: the model and the nodes that it was assembled from.
        data: its batches.
        score: (dev batches, log-probabilities of their sequences) -> the dev score, higher is
            better.
        study: what the checkpoint says of its data.
        measure: what ``score`` is, for the log.
        heads: direct heads, where there are any.
        features: of the frozen encoders.
    """

    model: VLM
    parts: Mapping[str, Any]
    data: BatchDataModule
    score: Callable[[list[Batch], list[torch.Tensor]], float]
    study: Mapping[str, Any]
    measure: str = "dev score"
    heads: AuxiliaryHeads | None = None
    features: Sequence[Features] = ()


def check_parts(cfg: DictConfig, *, shows: Modality | None = None) -> None:
    """Raise UserError for parts that do not fit each other or the data, before the data are read.

    Args:
        cfg: the job's config; the parts of a checkpoint have fitted before.
        shows: what the data show.
    """
    from spinevl.training.loggers import check_logger

    check_logger(logger_options(cfg))
    if not cfg.checkpoint:
        from spinevl.inference.assemble import check_branches

        check_branches(part_nodes(cfg), shows=shows, trusted=list(cfg.trusted_targets))


def logger_options(cfg: DictConfig) -> LoggerOptions:
    """The options of the group ``logger``."""
    options: Any = OmegaConf.to_object(cfg.logger)
    return options


def start(cfg: DictConfig) -> tuple[VLM, dict[str, Any]]:
    """The model that a training starts from, and its nodes: new parts, or those of a checkpoint."""
    import pytorch_lightning as pl

    from spinevl.inference.assemble import assemble, load_model, tuned
    from spinevl.models.source import checkpoint_folder

    _quiet()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    trusted = list(cfg.trusted_targets)
    parts = part_nodes(cfg)
    if not cfg.checkpoint:
        return assemble(parts, trusted=trusted), parts
    model, stored = load_model(checkpoint_folder(cfg.checkpoint), trusted=trusted)
    llm = dict(stored["parts"]["llm"])
    if llm.get("conversation") == "pretrain":  # no way to ask anything: the config says how
        llm["conversation"] = model.llm.conversation = parts["llm"]["conversation"]
    changed = {"llm": llm, "tuning": parts["tuning"]}
    return tuned(model, parts["tuning"]), {**stored["parts"], **changed}


def encode_once(
    cfg: DictConfig,
    model: VLM,
    parts: Mapping[str, Any],
    image_inputs: Mapping[Modality, ImageInput],
    pictures: Sequence[Picture],
) -> list[Features]:
    """Let the sights read kept features where the encoder is frozen, as it will see them."""
    import torch

    from spinevl.inference.assemble import keep_features

    cache = feature_cache(cfg)
    if parts["tuning"]["encoder"] != "frozen" or cache is None:
        return []
    device = torch.device("cuda" if _on_gpu(cfg.trainer.accelerator) else "cpu")
    for encoder, _ in model.vision_branches().values():
        encoder.to(device).eval()
    halves = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    precision = _precision(cfg.trainer.precision, cfg.trainer.accelerator)
    return keep_features(model, cache, image_inputs, pictures, autocast=halves.get(precision))


def fit(cfg: DictConfig, plan: Plan, *, out: Path, begun: float) -> float | None:
    """Train; writes ``checkpoint/``, ``metrics.csv`` and ``train.json`` under OUT.

    Returns:
        The best dev score; None where nothing was scored.
    """
    import torch

    from spinevl.checkpoints.native import save_checkpoint
    from spinevl.models.vlm import learns
    from spinevl.training.callbacks import Clock, DevScore, MetricsFile
    from spinevl.training.loggers import close_loggers, make_logger
    from spinevl.training.module import Objective, TrainingModule

    options, model, data = cfg.trainer, plan.model, plan.data
    batches = data.train_batches
    total_steps = max(1, options.max_epochs * (-(-batches // options.accumulate)))
    module = TrainingModule(
        model,
        plan.heads,
        objective=Objective(
            auxiliary_weight=cfg.warmup.weight,
            warmup_fraction=cfg.warmup.fraction,
            shift_px=cfg.augment.shift_px,
            gain=cfg.augment.gain,
        ),
        lr=dict(cfg.optim.lr),
        betas=list(cfg.optim.betas),
        weight_decay=cfg.optim.weight_decay,
        warmup_ratio=cfg.optim.warmup_ratio,
        schedule=cfg.optim.schedule,
        total_steps=total_steps,
        seed=cfg.seed,
    )
    if options.compile:
        model.llm.compile()
    module.train()
    for part in ("encoder", "encoder3d", "llm"):  # what does not learn drops nothing out
        if hasattr(model, part) and not learns(getattr(model, part)):
            getattr(model, part).eval()
    description = {
        "parts": dict(plan.parts),
        "study": dict(plan.study),
        "parent": str(cfg.checkpoint) if cfg.checkpoint else None,
    }
    clock = Clock()
    dev = DevScore(
        plan.score,
        lambda: save_checkpoint(out / "checkpoint", model, config=description),
    )
    config: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    logger = make_logger(logger_options(cfg), out=out, hyperparameters=config)
    every = max(1, options.max_epochs // max(1, options.dev_checks))
    trainer = _trainer(
        accelerator=options.accelerator,
        devices=1,
        precision=_precision(options.precision, options.accelerator),
        max_epochs=options.max_epochs,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.clip_norm,
        check_val_every_n_epoch=every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        deterministic=True,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=options.progress_bar,
        logger=logger,
        log_every_n_steps=min(10, batches),
        callbacks=[clock, dev, MetricsFile(out / "metrics.csv")],
    )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit as stop:  # how the trainer ends on Ctrl-C, with later ones ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from stop
    finally:
        close_loggers()
    torch.use_deterministic_algorithms(False)  # nothing of this job stays for the next one
    write_text_atomic(
        out / "train.json",
        json.dumps(
            {
                **clock.report(),
                "peak_memory_bytes": _peak_memory(),
                "device": str(module.device),
                "steps": trainer.global_step,
                "seconds": time.monotonic() - begun,
                "images_encoded": sum(f.encoded for f in plan.features) if plan.features else None,
                "images_cached": sum(f.found for f in plan.features) if plan.features else None,
                "dev_score": dev.best,
                "dev_score_step": dev.best_step,
                "dev_history": dev.history,
                "parameters": sum(p.numel() for p in model.parameters()),
                "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            },
            indent=2,
        ),
    )
    score = "nothing to score on dev" if dev.best is None else f"{plan.measure} {dev.best:.3f}"
    log.info("%s (step %d); checkpoint in %s", score, dev.best_step, out / "checkpoint")
    return dev.best


def _precision(name: str, accelerator: str) -> Any:
    """``32-true``, ``bf16-mixed`` or ``16-mixed``: weights stay in float32."""
    import torch

    if str(name) == "auto":
        half = _on_gpu(accelerator) and torch.cuda.is_bf16_supported()
        return "bf16-mixed" if half else "32-true"
    precision = PRECISIONS.get(str(name), str(name))
    if precision not in PRECISIONS.values():
        raise UserError(
            f"trainer.precision={name}: expected auto, {', '.join(PRECISIONS.values())}; weights "
            "are trained in float32"
        )
    return precision


def _on_gpu(accelerator: str) -> bool:
    import torch

    return torch.cuda.is_available() and str(accelerator) != "cpu"


def _trainer(**options: Any) -> Any:
    """A Trainer; what it refuses (an accelerator that is not there) is the user's to mend."""
    import pytorch_lightning as pl
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    try:
        return pl.Trainer(**options)
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"trainer: {error}") from error


def _quiet() -> None:
    """Silence what Lightning says to its developers, not to ours."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*module.s. in eval mode.*")
    warnings.filterwarnings("ignore", message=".*DataLoader.* across ranks is zero.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*optimizer.step.*")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _peak_memory() -> int:
    """Peak memory in bytes: of the GPU where one is used, of the process otherwise."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
