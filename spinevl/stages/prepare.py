"""From the config to a study: cohort, split, prompts and records, as every stage needs them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from spinevl.config.conf import build, build_tasks, cache_dir, official_tasks
from spinevl.data.prompt import check_templates, read_templates
from spinevl.data.records import build_records, read_records
from spinevl.data.split import Split
from spinevl.schema.cohort import Cohort, DataSource
from spinevl.schema.errors import Problem, UserError
from spinevl.schema.patient import Patient
from spinevl.schema.record import Record
from spinevl.schema.task import Task
from spinevl.sources.conversations import ConversationSource

if TYPE_CHECKING:
    from spinevl.models.vlm import VLM

log = logging.getLogger(__name__)

CONVERSATIONS = "spinevl.sources.conversations.ConversationSource"


@dataclass(frozen=True)
class Study:
    """What is asked, of whom, and how.

    Attributes:
        cohort: the patients.
        split: train and dev; None where only test patients are used.
        tasks, templates: what is asked in which words.
        sag_image, separate: the sagittal slices shown, together or one by one.
        test_answers: whether test records carry the template's labels as answers.
        records_folder: record files of an earlier ``build`` to read instead.
        suffix: the end of their names.
    """

    cohort: Cohort
    split: Split | None
    tasks: Mapping[str, Task]
    templates: Mapping[str, str]
    sag_image: tuple[int, ...]
    separate: bool
    test_answers: bool = False
    records_folder: Path | None = None
    suffix: str | None = None
    _records: dict[tuple[str, str], list[Record]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def patients(self, subset: str) -> tuple[Patient, ...]:
        """The patients of ``train``, ``dev`` or ``test``."""
        if subset == "test":
            return self.cohort.test
        assert self.split is not None
        return self.split.train if subset == "train" else self.split.dev

    def task_records(self, task: Task, subset: str) -> list[Record]:
        """The records of one task and subset, made once."""
        key = (task.name, subset)
        if key not in self._records:
            self._records[key] = self._make_records(task, subset)
        return self._records[key]

    def _make_records(self, task: Task, subset: str) -> list[Record]:
        if self.records_folder is not None:
            name = record_file(task, subset, self.suffix)
            return read_records(self.records_folder / name, task=task)
        truth = subset != "test" or (self.test_answers and task.closed)
        root = self.cohort.test_images if subset == "test" else self.cohort.train_images
        return build_records(
            self.patients(subset),
            task=task,
            template=self.templates[task.name],
            sag_image=self.sag_image,
            separate=self.separate,
            images_root=root,
            answers="truth" if truth else "none",
        )

    def records(self, subset: str) -> list[Record]:
        """The records of all tasks, task by task."""
        return [one for task in self.tasks.values() for one in self.task_records(task, subset)]


def record_file(task: Task, subset: str, suffix: str | None) -> str:
    """The name of a record file: ``zyzg_train.json``, ``zyzg_train_v2.json``."""
    return f"{task.name}_{subset}_{suffix}.json" if suffix else f"{task.name}_{subset}.json"


def load_study(
    cfg: DictConfig, subsets: Collection[str], *, stored: Mapping[str, Any] | None = None
) -> Study:
    """Read and check everything that a job needs.

    Args:
        cfg: the job's config.
        subsets: which of ``train``, ``dev``, ``test`` will be used.
        stored: the study of a checkpoint; what the config leaves at null is taken from it.

    Raises:
        UserError: with every problem found.
    """
    stored = stored or {}
    if conversations(cfg, stored):
        raise UserError(
            "data=conversations: train, predict and doctor take conversations; this asks patients, "
            "so choose data=cervai or data=phantom"
        )
    _require(cfg, stored, subsets)
    tasks = build_tasks(cfg) if cfg.get("task") else _stored_tasks(stored)
    known = official_tasks()
    templates = _templates(cfg, stored)
    check_templates(templates, tasks, where=_prompts_name(cfg))
    sag_image = tuple(cfg.get("sag_image") or stored["sag_image"])
    sag_type = cfg.get("sag_type") or stored["sag_type"]
    source: DataSource = build(cfg.get("data") or stored["data"], trusted=list(cfg.trusted_targets))
    cohort = source.load(
        tasks=tasks,
        known_tasks=known,
        sag_image=sag_image,
        subsets=subsets,
        cache_dir=cache_dir(cfg),
    )
    folder = cfg.get("records")
    split = None
    if {"train", "dev"} & set(subsets) and not folder:
        splitter = build(cfg.get("split") or stored["split"], trusted=list(cfg.trusted_targets))
        drawn = None if getattr(source, "labels", None) else getattr(source, "n_train", None)
        if drawn and getattr(splitter, "n_train", 0) is None:
            splitter.n_train = drawn  # a phantom cohort that is drawn names its own numbers
        split = splitter.split(cohort.patients, {**known, **tasks})
    full = {name: templates.get(name) or task.prompt or "" for name, task in tasks.items()}
    study = Study(
        cohort=cohort,
        split=split,
        tasks=tasks,
        templates=full,
        sag_image=sag_image,
        separate=str(sag_type) == "separate",
        test_answers=str(cfg.get("test_answers", "none")) == "upstream",
        records_folder=Path(folder) if folder else None,
        suffix=cfg.get("suffix"),
    )
    return replace(study, split=_split_of_records(study)) if folder else study


def _require(cfg: DictConfig, stored: Mapping[str, Any], subsets: Collection[str]) -> None:
    """Raise UserError for what neither the config nor the checkpoint says of the study."""
    examples = {
        "data": "data=cervai",
        "task": "'task=[qd,sl,zjppt,zyzg]'",
        "prompts": "prompts=en",
        "sag_image": "'sag_image=[6]'",
        "sag_type": "sag_type=joint",
    }
    if {"train", "dev"} & set(subsets) and not cfg.get("records"):
        examples["split"] = "split=stratified"
    known = {**stored, "prompts": stored.get("templates")}
    missing = [name for name in examples if not cfg.get(name) and not known.get(name)]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: the checkpoint does not say, for no study trained it; add "
            + " ".join(examples[name] for name in missing)
        )


def _split_of_records(study: Study) -> Split:
    """Who trains and who is dev, as an earlier ``build`` wrote its records."""
    known = {patient.id: patient for patient in study.cohort.patients}
    sides = {
        side: dict.fromkeys(
            record.id for task in study.tasks.values() for record in study.task_records(task, side)
        )
        for side in ("train", "dev")
    }
    where = f"records={study.records_folder}"
    problems = [
        Problem(
            f"{where}: patient {one} ({side})",
            "a patient of the data",
            "none",
            "name its build's data",
        )
        for side, ids in sides.items()
        for one in ids
        if one not in known
    ] + [
        Problem(f"{where}: patient {one}", "train or dev", "both", "build them again")
        for one in sides["train"]
        if one in sides["dev"]
    ]
    if problems:
        raise UserError(problems)
    train, dev = (tuple(known[one] for one in ids) for ids in sides.values())
    return Split(train, dev)


def run_subsets(cfg: DictConfig) -> tuple[str, ...]:
    """What ``run`` reads: train and dev, and test where the data name test patients."""
    names_test = any(cfg.data.get(key) for key in ("test_images", "test_labels", "n_test"))
    return ("train", "dev", "test") if names_test else ("train", "dev")


def feature_cache(cfg: DictConfig) -> Any:
    """The cache of a frozen encoder's features; None where it is switched off."""
    if not cfg.feature_cache.enabled:
        return None
    from spinevl.features.store import FeatureCache

    bound = int(cfg.feature_cache.max_gb * 1e9)
    return FeatureCache(cache_dir(cfg) / "features", max_bytes=bound)


def ready_model(cfg: DictConfig, checkpoint: Path) -> tuple[VLM, Any]:
    """A checkpoint's model on the device that is there, and a cache where its encoder is frozen."""
    import torch

    from spinevl.inference.assemble import load_model

    model, stored = load_model(checkpoint, trusted=list(cfg.trusted_targets))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    frozen = stored["parts"]["tuning"]["encoder"] == "frozen"
    return model, feature_cache(cfg) if frozen else None


def conversations(
    cfg: DictConfig, stored: Mapping[str, Any] | None = None
) -> ConversationSource | None:
    """The source of ``data=conversations``; None where the data are patients.

    Args:
        cfg: the job's config.
        stored: the study of a checkpoint, which says what the config leaves at null.
    """
    node = cfg.get("data") or (stored or {}).get("data") or {}
    if str(node.get("_target_", "")) != CONVERSATIONS:
        return None
    source: ConversationSource = build(node)
    return source


def part_nodes(cfg: DictConfig) -> dict[str, Any]:
    """The plain config nodes that a model is assembled from."""
    names = ("encoder", "connector", "encoder3d", "connector3d", "llm", "tuning")
    return {
        name: OmegaConf.to_container(cfg[name], resolve=True, enum_to_str=True)
        for name in names
        if cfg.get(name)
    }


def study_config(cfg: DictConfig, study: Study) -> dict[str, Any]:
    """The study as a checkpoint keeps it, so that predict asks what train asked."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    return {
        "task": plain["task"],
        "templates": dict(study.templates),
        "sag_image": list(study.sag_image),
        "sag_type": "separate" if study.separate else "joint",
        "split": _with_absolute_paths(plain["split"]),
        "data": data_node(cfg),
        "cohort": study.cohort.name,
        "synthetic": study.cohort.synthetic,
    }


def data_node(cfg: DictConfig) -> dict[str, Any]:
    """The data's node as a checkpoint keeps it: its files are found from any folder."""
    node: Any = OmegaConf.to_container(cfg.data, resolve=True)
    return _with_absolute_paths(node)


def _with_absolute_paths(node: Mapping[str, Any]) -> dict[str, Any]:
    """A data or split node whose files are found from any working directory."""
    paths = (
        *("labels", "boxes", "train_images", "test_images", "test_labels"),
        *("train", "dev", "test", "images"),
    )
    return {
        key: str(Path(value).expanduser().absolute()) if key in paths and value else value
        for key, value in node.items()
    }


def _stored_tasks(stored: Mapping[str, Any]) -> dict[str, Task]:
    return {name: build(node) for name, node in stored["task"].items()}


def _prompts_name(cfg: DictConfig) -> str:
    """The prompt file for messages."""
    prompts = cfg.get("prompts")
    return str(prompts.path) if prompts and prompts.get("path") else "prompts"


def _templates(cfg: DictConfig, stored: Mapping[str, Any]) -> Mapping[str, str]:
    prompts = cfg.get("prompts")
    if not prompts:
        return stored["templates"]
    if prompts.get("path"):
        return read_templates(prompts.path)
    return {str(name): str(text) for name, text in prompts.templates.items()}
