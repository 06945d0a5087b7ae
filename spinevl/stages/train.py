"""Train a model on a study and keep the checkpoint that scores best on dev."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spinevl.io.files import write_text_atomic
from spinevl.schema.dialogue import Dialogue
from spinevl.schema.errors import UserError
from spinevl.schema.record import Record
from spinevl.stages.build import fingerprint
from spinevl.stages.fit import Plan, check_parts, encode_once, fit, start
from spinevl.stages.prepare import Study, conversations, data_node, load_study, study_config


def main(cfg: DictConfig, *, out: Path) -> float | None:
    """Train, and return the best dev score."""
    source = conversations(cfg)
    check_parts(cfg, shows=None if source else "image")
    if source:
        return train_on_conversations(cfg, source, out=out)
    study = load_study(cfg, {"train", "dev"})
    assert study.split is not None
    summary = study.split.summary(study.tasks)
    write_text_atomic(out / "split.json", json.dumps(summary, indent=2))
    return train(cfg, study, out=out)


def train(cfg: DictConfig, study: Study, *, out: Path) -> float | None:
    """Train on the questions of ``study``; see ``fit`` for what it writes."""
    from spinevl.data.auxiliary_targets import AuxiliarySizes as HeadSizes
    from spinevl.data.datamodule import PatientDataModule
    from spinevl.data.images import ImageStore
    from spinevl.data.packing.collate import pictures
    from spinevl.data.weighting import LossWeights
    from spinevl.inference.assemble import collator_of
    from spinevl.models.auxiliary_heads import AuxiliaryHeads

    begun = time.monotonic()
    options = cfg.trainer
    model, parts = start(cfg)
    records = {side: study.records(side) for side in ("train", "dev")}
    sizes = HeadSizes.of(study.tasks)
    uses_heads = cfg.warmup.weight > 0 and bool(sizes.sizes)
    images = ImageStore()
    weights = LossWeights(records["train"], study.tasks, class_weights=cfg.imbalance.class_weights)
    learn = collator_of(
        model,
        study.tasks,
        images=images,
        packing=options.packing,
        weights=weights,
        heads=sizes if uses_heads else None,
    )
    choose = collator_of(model, study.tasks, images=images, packing=options.packing)
    choose.image_inputs = learn.image_inputs
    learn.check(records["train"])
    closed_dev = [one for one in records["dev"] if study.tasks[one.task].closed]
    choose.check(closed_dev)
    shown = [one for side in records.values() for record in side for one in pictures(record)]
    features = encode_once(cfg, model, parts, learn.image_inputs, shown)
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
        heads = AuxiliaryHeads(sizes.sizes, tokens=model.connector.tokens, dim=model.llm.dim)
    plan = Plan(
        model=model,
        parts=parts,
        data=data,
        score=_dev_scorer(closed_dev, study),
        study={**study_config(cfg, study), "fingerprint": fingerprint(study)},
        heads=heads,
        features=features,
    )
    return fit(cfg, plan, out=out, begun=begun)


def train_on_conversations(cfg: DictConfig, source: Any, *, out: Path) -> float | None:
    """Train on every answer of some conversations; dev is scored by its mean log-probability."""
    from spinevl.data.datamodule import DialogueDataModule
    from spinevl.data.packing.image_input import check_images
    from spinevl.inference.dialogues import dialogue_collator

    begun = time.monotonic()
    options = cfg.trainer
    train_set = source.dialogues("train", answered=True)
    dev_set = source.dialogues("dev", answered=True) if source.files["dev"] else []
    sampler = train_sampler(source, train_set, seed=cfg.seed)
    model, parts = start(cfg)
    collate = dialogue_collator(model, window=source.window, packing=options.packing)
    collate.check([*train_set, *dev_set])
    shown = [one for dialogue in (*train_set, *dev_set) for one in dialogue.pictures]
    features = encode_once(cfg, model, parts, collate.image_inputs, shown)
    if not features:  # what is kept has been decoded
        check_images(shown, collate.image_inputs)
    plan = Plan(
        model=model,
        parts=parts,
        data=DialogueDataModule(
            train_set,
            dev_set,
            collate=collate,
            sampler=sampler,
            batch_size=options.batch_patients,
            num_workers=options.num_workers,
            accumulate=options.accumulate,
        ),
        score=_mean_logprob,
        measure="dev log-probability a token",
        study={
            "data": data_node(cfg),
            "fingerprint": {"inputs": source.sha256()},
        },
        features=features,
    )
    return fit(cfg, plan, out=out, begun=begun)


def train_sampler(source: Any, dialogues: Sequence[Dialogue], *, seed: int) -> Any:
    """The order of the training conversations. Raises UserError for ratios that do not fit them."""
    from spinevl.data.sampling import RatioSampler

    try:
        return RatioSampler([one.task for one in dialogues], ratios=source.ratios, seed=seed)
    except ValueError as error:
        raise UserError(str(error)) from error


def _mean_logprob(batches: Any, logprobs: Any) -> float:
    """The mean log-probability of the answers' tokens; the negative of the dev loss."""
    total = sum(float(values.double().sum()) for values in logprobs)
    return total / sum(batch.loss_tokens for batch in batches)


def _dev_scorer(records: Sequence[Record], study: Study) -> Any:
    """A function of dev batches and their option log-probabilities -> the dev score."""
    from spinevl.evaluation.join import answers_of, truth_of
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
