"""Check everything that ``run`` would read, or a submission, before any training time is spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from spinevl.config.conf import build_tasks
from spinevl.evaluation.join import read_answers
from spinevl.io.json_file import read_json_list
from spinevl.schema.errors import Problem, UserError
from spinevl.schema.record import Record
from spinevl.sources.conversations import ConversationSource
from spinevl.sources.labels import read_template
from spinevl.stages.fit import check_parts
from spinevl.stages.prepare import Study, conversations, load_study, run_subsets

# Measured by `spinevl run experiment=demo` on two cores: patients a second and pass, tiny parts.
_TINY_PATIENTS_PER_SECOND = 15.0


def main(cfg: DictConfig, *, out: Path) -> None:
    """Print what is fine; raise with every problem otherwise. Writes nothing."""
    if cfg.answers:
        check_submission(cfg)
        return
    source = conversations(cfg)
    check_parts(cfg, shows=None if source else "image")
    if source:
        check_conversations(cfg, source)
        return
    subsets = run_subsets(cfg)
    study = load_study(cfg, subsets)
    print(f"ok  {study.cohort.name}")
    records = {subset: study.records(subset) for subset in subsets}
    for subset in subsets:
        n_patients = len(study.patients(subset))
        images = {path for one in records[subset] for path in one.images}
        print(
            f"ok  {subset}: {n_patients} patients, {len(records[subset])} questions, "
            f"{len(images)} images"
        )
    for line in _check_model(cfg, study, records["train"]):
        print(line)


def check_conversations(cfg: DictConfig, source: ConversationSource) -> None:
    """Read every file that is named, decode its images, and fit all of it to the model."""
    from spinevl.data.packing.image_input import check_images
    from spinevl.inference.dialogues import dialogue_collator
    from spinevl.stages.fit import start
    from spinevl.stages.train import train_sampler

    named = [subset for subset, file in source.files.items() if file]
    if not named:
        raise UserError("data.train, data.dev and data.test are not set: name a JSON file")
    read = {one: source.dialogues(one, answered=one != "test") for one in named}
    if "train" in read:
        train_sampler(source, read["train"], seed=cfg.seed)
    model, _ = start(cfg)
    collate = dialogue_collator(model, window=source.window)
    for subset, dialogues in read.items():
        collate.check(dialogues)
        pictures = {picture for one in dialogues for picture in one.pictures}
        check_images(pictures, collate.image_inputs)
        print(f"ok  {subset}: {len(dialogues)} conversations, {len(pictures)} images")


def check_submission(cfg: DictConfig) -> None:
    """Check ``answers`` against the template ``data.test_labels``: ids, order, ints, lengths."""
    template_path = cfg.data.get("test_labels")
    if not template_path:
        raise UserError("data.test_labels is not set: give the submission template")
    tasks = {
        name: task for name, task in build_tasks(cfg).items() if task.closed and task.weight > 0
    }
    template = read_template(template_path, tasks=tasks)
    ids = [patient.id for patient in template]
    read_answers(cfg.answers, ids=ids, tasks=tasks)
    given = read_json_list(cfg.answers, expected="a list of answers")
    found = [entry["id"] for entry in given]
    if found != ids:
        place = next(k for k, (a, b) in enumerate(zip(found, ids, strict=True)) if a != b)
        raise UserError(
            Problem(
                f"{cfg.answers}: record {place + 1}",
                f"patient {ids[place]}, as in {template_path}",
                f"patient {found[place]}",
                "put the patients in the template's order",
            )
        )
    surplus = [
        Problem(
            f"{cfg.answers}: patient {entry['id']}",
            f"only the keys id, {', '.join(tasks)}",
            f"also {', '.join(keys)}",
            "remove them",
        )
        for entry in given
        if (keys := sorted(set(entry) - {"id", *tasks}))
    ]
    if surplus:
        raise UserError(surplus)
    print(f"ok  {cfg.answers}: {len(ids)} patients, ids, order and values as in the template")


def _check_model(cfg: DictConfig, study: Study, records: Sequence[Record]) -> list[str]:
    """Build the model, lay out every training question, and estimate time and memory."""
    from spinevl.data.images import ImageStore
    from spinevl.data.weighting import LossWeights
    from spinevl.inference.assemble import collator_of
    from spinevl.stages.fit import start

    model, _ = start(cfg)
    weights = LossWeights(records, study.tasks)
    collate = collator_of(model, study.tasks, images=ImageStore(), weights=weights)
    collate.check(records)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return [
        f"ok  model: {total:,} parameters, {trained:,} of them trained",
        *estimate(cfg, total, trained, len(study.patients("train")), len(records)),
    ]


def estimate(
    cfg: DictConfig, parameters: int, trained: int, n_patients: int, n_questions: int
) -> list[str]:
    """Lines that say what a run will cost, as far as it can be told without running it.

    Memory counts float32 weights, and gradients with AdamW's two moments for what is trained;
    activations come on top. Time scales the measured rate of the tiny parts by size.
    """
    gigabytes = (4 * parameters + 12 * trained) / 1e9
    passes = cfg.trainer.max_epochs * n_patients
    scale = max(1.0, parameters / 1.6e6)
    minutes = passes * scale / _TINY_PATIENTS_PER_SECOND / 60
    return [
        f"estimate  memory: {gigabytes:.2f} GB for weights, gradients and AdamW, "
        "activations on top",
        f"estimate  training: {cfg.trainer.max_epochs} epochs of {n_questions} questions, about "
        f"{minutes:.0f} minutes on two CPU cores; a GPU takes a fraction of it",
    ]
