"""Train a model on a study and keep the checkpoint that scores best on dev."""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spinevl.config import build
from spinevl.options import PRECISIONS
from spinevl.schema.errors import UserError
from spinevl.schema.files import write_text_atomic
from spinevl.schema.record import Record
from spinevl.stages.prepare import Study, feature_cache, load_study, part_nodes, study_config

log = logging.getLogger(__name__)


def main(cfg: DictConfig, *, out: Path) -> float | None:
    """Train, and return the best dev score."""
    study = load_study(cfg, {"train", "dev"})
    assert study.split is not None
    summary = study.split.summary(study.tasks)
    write_text_atomic(out / "split.json", json.dumps(summary, indent=2))
    return train(cfg, study, out=out)


def train(cfg: DictConfig, study: Study, *, out: Path) -> float | None:
    """Train on ``study``; writes ``checkpoint/``, ``metrics.csv`` and ``train.json`` under OUT."""
    import pytorch_lightning as pl
    import torch

    from spinevl.data.datamodule import PatientDataModule
    from spinevl.data.direct import DirectHeads as HeadSizes
    from spinevl.data.image_store import ImageStore
    from spinevl.data.weighting import LossWeights
    from spinevl.inference.assemble import assemble, collator_of
    from spinevl.models.checkpoint import save_checkpoint
    from spinevl.models.direct_heads import DirectHeads
    from spinevl.training.callbacks import Clock, DevScore, MetricsFile
    from spinevl.training.module import Objective, TrainingModule

    begun = time.monotonic()
    _quiet()
    options = cfg.trainer
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    parts = part_nodes(cfg)
    model = assemble(parts, trusted=list(cfg.trusted_targets))
    records = {side: study.records(side) for side in ("train", "dev")}
    sizes = HeadSizes.of(study.tasks)
    precision = _precision(options.precision, options.accelerator)
    uses_heads = cfg.warmup.weight > 0 and bool(sizes.sizes)
    shared: dict[str, Any] = {
        "images": ImageStore(),
        "packing": options.packing,
    }
    weights = LossWeights(records["train"], study.tasks, class_weights=options.class_weights)
    features = None
    frozen = [part for part in ("encoder", "llm") if parts["tuning"][part] == "frozen"]
    if "encoder" in frozen and (cache := feature_cache(cfg)) is not None:
        features = _features(
            cache, model, records, shared["images"], precision, options.accelerator
        )
        shared["features"] = features
    learn = collator_of(
        model, study.tasks, **shared, weights=weights, heads=sizes if uses_heads else None
    )
    choose = collator_of(model, study.tasks, **shared)
    learn.check(records["train"])
    closed_dev = [one for one in records["dev"] if study.tasks[one.task].closed]
    choose.check(closed_dev)
    data = PatientDataModule(
        records["train"],
        closed_dev,
        learn=learn,
        choose=choose,
        batch_patients=options.batch_patients,
        eval_patients=4 * options.batch_patients,
        seed=cfg.seed,
        num_workers=options.num_workers,
        accumulate=options.accumulate,
    )
    heads = None
    if uses_heads:
        heads = DirectHeads(sizes.sizes, tokens=model.connector.tokens, dim=model.llm.dim)
    batches = data.train_batches
    total_steps = max(1, options.max_epochs * (-(-batches // options.accumulate)))
    module = TrainingModule(
        model,
        heads,
        objective=Objective(
            direct_weight=cfg.warmup.weight,
            warmup_fraction=cfg.warmup.fraction,
            shift_px=options.shift_px,
            gain=options.gain,
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
    for part in frozen:  # what does not learn drops nothing out
        getattr(model, part).eval()
    description = {"parts": parts, "study": study_config(cfg, study)}
    clock = Clock()
    dev = DevScore(
        _dev_scorer(closed_dev, study),
        lambda: save_checkpoint(out / "checkpoint", model, config=description),
    )
    logger = _logger(cfg)
    every = max(1, options.max_epochs // max(1, options.dev_checks))
    trainer = _trainer(
        accelerator=options.accelerator,
        devices=1,
        precision=precision,
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
        _close(trainer.loggers)
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
                "images_encoded": features.encoded if features else None,
                "images_cached": features.found if features else None,
                "dev_score": dev.best,
                "dev_score_step": dev.best_step,
                "dev_history": dev.history,
                "parameters": sum(p.numel() for p in model.parameters()),
                "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            },
            indent=2,
        ),
    )
    score = "no closed question on dev" if dev.best is None else f"dev score {dev.best:.3f}"
    log.info("%s (step %d); checkpoint in %s", score, dev.best_step, out / "checkpoint")
    return dev.best


def _dev_scorer(records: Sequence[Record], study: Study) -> Any:
    """A function of dev batches and their option log-probabilities -> the dev score."""
    from spinevl.evaluation.answers import answers_of, truth_of
    from spinevl.evaluation.metrics import point_score
    from spinevl.inference.predictor import choice_prediction, merge_slices, option_logprobs

    def score(batches: Any, logprobs: Any) -> float:
        predictions = []
        for batch, values in zip(batches, logprobs, strict=True):
            for index, options in option_logprobs(batch, values.double().tolist()).items():
                record = records[index]
                predictions.append(choice_prediction(record, study.tasks[record.task], options))
        answers = answers_of(merge_slices(predictions, study.tasks), study.tasks)
        closed = {name: task for name, task in study.tasks.items() if task.closed}
        return point_score(truth_of(study.patients("dev"), closed), answers, closed)

    return score


def _features(
    cache: Any,
    model: Any,
    records: Mapping[str, Sequence[Record]],
    images: Any,
    precision: str,
    accelerator: str,
) -> Any:
    """What the frozen encoder makes of every image of the job, as it will see it in training."""
    import torch

    device = torch.device("cuda" if _on_gpu(accelerator) else "cpu")
    halves = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    return cache.features(
        model.encoder.to(device).eval(),
        [path for side in records.values() for one in side for path in one.images],
        load=images.__getitem__,
        autocast=halves.get(precision),
    )


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


def _logger(cfg: DictConfig) -> Any:
    """The logger of the config group, told the job's config; False where none is asked for."""
    if not cfg.get("logger"):
        return False
    try:
        logger = build(cfg.logger, trusted=list(cfg.trusted_targets))
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
        return logger
    except ModuleNotFoundError as error:
        kind = str(cfg.logger["_target_"]).rpartition(".")[2]
        extra = {"WandbLogger": "wandb", "TensorBoardLogger": "tensorboard"}.get(kind)
        fix = f"pip install 'spinevl[{extra}]'" if extra else "install what it needs"
        raise UserError(f"logger: {kind} lacks a package ({error}); {fix}") from error


def _close(loggers: Sequence[Any]) -> None:
    """End a W&B run with its job: the next job of a sweep would go on in it."""
    if (wandb := sys.modules.get("wandb")) is not None and loggers and wandb.run is not None:
        wandb.finish()


def _quiet() -> None:
    """Silence what Lightning says to its developers, not to ours."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
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
