"""Check everything that ``run`` would read, or a submission, before any training time is spent."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from spinevl.build.build import build
from spinevl.build.trust import NOTHING, Trust
from spinevl.config.plain import plain
from spinevl.config.tasks import build_tasks
from spinevl.data.examples import grouped
from spinevl.data.study import Study
from spinevl.evaluation.submission import check_submission
from spinevl.schema.errors import Problems, UserError, counted

if TYPE_CHECKING:
    from spinevl.data.duplicates import Descriptions
    from spinevl.data.packing.image_input import ImageInputs
    from spinevl.schema.image_ref import ImageRef
    from spinevl.training.spec import TrainSpec

# Measured by `spinevl run experiment=demo` on two cores: patients a second and pass, tiny parts.
_TINY_PATIENTS_PER_SECOND = 15.0


def main(cfg: DictConfig, *, out: Path, trust: Trust = NOTHING) -> None:
    """Print what is fine; raise with every problem otherwise. Writes nothing."""
    config: Any = plain(cfg)
    if config["answers"]:
        template = config["data"].get("test_labels")
        if not template:
            raise UserError("data.test_labels is not set: give the submission template")
        tasks = build_tasks(config["task"], build=functools.partial(build, trust=trust))
        print(check_submission(config["answers"], template=template, tasks=tasks))
        return
    from spinevl.data.duplicates import Descriptions
    from spinevl.training.memory.settle import settle
    from spinevl.training.prepare import open_for_training
    from spinevl.training.spec import TrainSpec

    spec = TrainSpec.from_config(config)
    seen = Descriptions()
    study = open_for_training(
        spec, None, trust=trust, tell=lambda line: print(f"ok  {line}"), watch=seen.add
    )
    if "train" in study.subsets:
        settle(spec, study, trust=trust, tell=lambda line: print(f"estimate  {line}"))
    for line in check(spec, study, seen, trust=trust):
        print(line)


def check(
    spec: TrainSpec, study: Study, seen: Descriptions, *, trust: Trust = NOTHING
) -> Iterator[str]:
    """Hold every example and image against the model, name duplicates, estimate the time.

    Args:
        spec, study: the training, and its study, opened.
        seen: what opening it has shown of its images.
        trust: what the command line trusts.

    Yields:
        Lines that say what is fine, and warnings.

    Raises:
        UserError: with every problem of the first subset that has any.
    """
    from spinevl.data.duplicates import DescribingStore, duplicate_lines
    from spinevl.data.packing.collate import Collator
    from spinevl.data.sampling import train_sampler
    from spinevl.training.prepare import starting_model

    yield f"ok  {study.name}"
    counts = {subset: study.examples(subset) for subset in study.subsets}
    if "train" in counts:
        train_sampler(counts["train"], ratios=study.ratios, seed=spec.seed)
    model, _ = starting_model(spec, trust)
    store = DescribingStore(study.decode, seen)
    collate = Collator(model.inputs(), store)
    for subset, examples in counts.items():
        collate.check(examples)
        images = dict.fromkeys(image for one in examples for image in one.images)
        _check_images(images, collate.inputs, seen)
        yield f"ok  {subset}: {study.summary(subset)}, {len(images)} images"
    yield from duplicate_lines(counts, store.describe)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    yield f"ok  model: {total:,} parameters, {trained:,} of them trained"
    train = counts.get("train", [])
    yield estimate(
        parameters=total,
        epochs=spec.trainer.max_epochs,
        n_patients=len(grouped(train)),
        n_questions=len(train),
    )


def _check_images(images: Collection[ImageRef], inputs: ImageInputs, seen: Descriptions) -> None:
    """Decode the images that nobody has decoded, and hold the shapes of all against the encoder.

    Raises:
        UserError: with every image that cannot be decoded or that the encoder does not take.
    """
    from spinevl.data.packing.image_input import check_images

    known = [image for image in images if image in seen]
    problems = Problems()
    for image in known:
        with problems.collected():
            inputs[image.modality].check(image, seen.like(image))
    problems.raise_any()
    check_images([image for image in images if image not in seen], inputs)


def estimate(*, parameters: int, epochs: int, n_patients: int, n_questions: int) -> str:
    """A line that says how long a run will take: the measured rate of the tiny parts, by size."""
    scale = max(1.0, parameters / 1.6e6)
    minutes = epochs * n_patients * scale / _TINY_PATIENTS_PER_SECOND / 60
    told = "less than a minute" if minutes < 1 else f"about {counted(round(minutes), 'minute')}"
    return (
        f"estimate  training: {counted(epochs, 'epoch')} of {counted(n_questions, 'question')}, "
        f"{told} on two CPU cores; a GPU takes a fraction of it"
    )
