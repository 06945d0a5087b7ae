"""Open a study: its patients or conversations, and the examples made of them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spinevl.build.allowlist import target_of
from spinevl.build.build import build, build_stored
from spinevl.build.trust import NOTHING, Trust
from spinevl.config.annotations import shown
from spinevl.config.check import checked
from spinevl.config.tasks import build_tasks, official_tasks
from spinevl.data.built_records import as_built, require_as_asked
from spinevl.data.examples import patient_examples
from spinevl.data.prompt import check_line_breaks, check_templates, read_templates
from spinevl.data.record_split import split_of_records
from spinevl.data.records import read_records
from spinevl.data.split import Split, Splitter
from spinevl.data.study_spec import StudySpec, damaged, with_absolute_paths
from spinevl.io.hashing import sha256, sha256_of_names
from spinevl.schema.cohort import Cohort, DataSource, StudyRequest, Watch
from spinevl.schema.errors import UserError, counted, refused
from spinevl.schema.example import Example
from spinevl.schema.patient import Patient
from spinevl.schema.study_layout import unknown_slices
from spinevl.schema.task import Task
from spinevl.sources.conversations import ConversationSource

if TYPE_CHECKING:
    import numpy as np

    from spinevl.schema.image_ref import ImageRef, Modality


log = logging.getLogger(__name__)

CONVERSATIONS = "spinevl.sources.conversations.ConversationSource"
R = TypeVar("R")


class ConversationStudy:
    """Conversations of files.

    Attributes:
        tasks: none; a conversation asks in its own words.
        ratios: see RatioSampler.
        images_checked: whether opening the study has decoded every image, all of one size.
        subsets: those whose files are named.
    """

    tasks: Mapping[str, Task] = {}
    images_checked = False

    def __init__(self, source: ConversationSource, spec: StudySpec) -> None:
        self.source = source
        self.spec = spec
        self.ratios: Mapping[str, float] | None = source.ratios
        self.subsets = tuple(subset for subset, file in source.files.items() if file)
        self.name = f"conversations ({', '.join(self.subsets)})"

    def examples(self, subset: str) -> list[Example]:
        """Answered conversations of ``train`` and ``dev``, none where dev has no file; of ``test``
        without their last answers."""
        if subset == "dev" and "dev" not in self.subsets:
            return []
        return [one for _, one in self.source.read(subset, answered=subset != "test")]

    def summary(self, subset: str) -> str:
        """How many there are."""
        return f"{len(self.examples(subset))} conversations"

    def decode(self, image: ImageRef) -> np.ndarray:
        """See ConversationSource."""
        return self.source.decode(image)

    def require_window(self, stored: Mapping[str, Any]) -> None:
        """Refuse volumes windowed otherwise than those that a checkpoint was trained on."""
        data = stored.get("data") or {}
        if "window" not in data:
            return
        asked = None if self.source.window is None else list(self.source.window)
        if asked != data["window"]:
            told = shown(data["window"])
            raise UserError(
                f"data.window: the checkpoint was trained with {told}; add 'data.window={told}'"
            )

    def fingerprint(self) -> dict[str, Any]:
        """The sha256 of every file."""
        return {"inputs": self.source.sha256()}

    def description(self) -> dict[str, Any]:
        """The study as a checkpoint keeps it."""
        return {"data": with_absolute_paths(self.spec.data or {})}


@dataclass(frozen=True)
class PatientStudy:
    """What is asked of which patients.

    Attributes:
        spec: what it was opened from.
        source, cohort: the data source, and the patients that it told.
        subsets: which of ``train``, ``dev`` and ``test`` were opened.
        split: train and dev; None where only test patients are used.
        tasks, templates: what is asked in which words.
    """

    spec: StudySpec
    source: DataSource
    cohort: Cohort
    subsets: tuple[str, ...]
    split: Split | None
    tasks: Mapping[str, Task]
    templates: Mapping[str, str]
    ratios: Mapping[str, float] | None = None
    _examples: dict[tuple[str, str], list[Example]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def patients(self, subset: str) -> tuple[Patient, ...]:
        """The patients of ``train``, ``dev`` or ``test``."""
        if subset == "test":
            return self.cohort.test
        assert self.split is not None
        return self.split.train if subset == "train" else self.split.dev

    def has_truth(self, subset: str) -> bool:
        """Whether the labels of ``patients(subset)`` are true, and no template's."""
        return subset != "test" or self.cohort.test_has_truth

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.cohort.name

    @property
    def images_checked(self) -> bool:
        """Whether opening the study has decoded every image, all of one size."""
        one_size = self.source.layout.side_px is not None
        return one_size and self.cohort.images_checked and not self.spec.records

    def summary(self, subset: str) -> str:
        """How many there are."""
        n_examples = len(self.examples(subset))
        patients = counted(len(self.patients(subset)), "patient")
        return f"{patients}, {counted(n_examples, 'question')}"

    def examples(self, subset: str) -> list[Example]:
        """The examples of all tasks, task by task."""
        return [one for task in self.tasks.values() for one in self.task_examples(task, subset)]

    def task_examples(self, task: Task, subset: str) -> list[Example]:
        """The examples of one task and subset, made once."""
        key = (task.name, subset)
        if key not in self._examples:
            self._examples[key] = self._make_examples(task, subset)
        return self._examples[key]

    def _make_examples(self, task: Task, subset: str) -> list[Example]:
        spec = self.spec
        if spec.records:
            file = Path(spec.records) / record_file(task, subset, spec.suffix)
            found = read_records(file, task=task, layout=self.cohort.layout)
            require_as_asked(
                found, task=task, template=self.templates[task.name], spec=spec, file=file
            )
            return found
        truth = subset != "test" or (spec.test_answers == "upstream" and task.closed)
        return patient_examples(
            self.patients(subset),
            task=task,
            template=self.templates[task.name],
            sag_image=spec.sag_image or (),
            separate=spec.sag_type == "separate",
            with_answers=truth,
        )

    def decode(self, image: ImageRef) -> np.ndarray:
        """See DataSource."""
        return self.source.decode(image)

    def fingerprint(self) -> dict[str, Any]:
        """What the data are: cohort, numbers and the sha256 of every input file."""
        cohort = self.cohort
        files = {**cohort.sources, **self.spec.files()}
        return {
            "cohort": cohort.name,
            "synthetic": cohort.synthetic,
            "n_labelled": len(cohort.patients),
            "n_test": len(cohort.test),
            "skipped": list(cohort.skipped),
            "inputs": {name: sha256(path) for name, path in files.items()},
        }

    def description(self) -> dict[str, Any]:
        """The study as a checkpoint keeps it, so that predict asks what train asked."""
        return {
            "task": self.spec.task,
            "templates": dict(self.templates),
            "sag_image": list(self.spec.sag_image or ()),
            "sag_type": self.spec.sag_type,
            "split": with_absolute_paths(self.spec.split or {}),
            "sides": self._sides(),
            "data": with_absolute_paths(self.spec.data or {}),
            "cohort": self.cohort.name,
            "synthetic": self.cohort.synthetic,
        }

    def _sides(self) -> dict[str, str]:
        """The sha256 of the ids of train and of dev; a checkpoint names no patient."""
        sides = ("train", "dev") if self.split else ()
        return {side: sha256_of_names(one.id for one in self.patients(side)) for side in sides}

    def require_sides(self, stored: Mapping[str, Any]) -> None:
        """Refuse a split that was drawn as a checkpoint's, and is another: its files have changed.

        Dev would have patients that were trained on, or that had no say in the checkpoint.
        """
        if self.split is None or not {"data", "split"} <= set(self.spec.stored):
            return
        if (known := stored.get("sides")) is None:
            log.warning(
                "the checkpoint is of an earlier version, which does not tell its train and dev "
                "patients: if its label file or images have changed, dev may hold some of train"
            )
        elif known != self._sides():
            raise refused(
                f"split of {self.cohort.name}",
                "the train and dev patients of the checkpoint's training",
                f"others: now {len(self.split.train)} train and {len(self.split.dev)} are dev",
                "restore its label file and images, or name the patients with data= and split=",
            )


Study = PatientStudy | ConversationStudy


def record_file(task: Task, subset: str, suffix: str | None) -> str:
    """The name of a record file: ``zyzg_train.json``, ``zyzg_train_v2.json``."""
    return f"{task.name}_{subset}_{suffix}.json" if suffix else f"{task.name}_{subset}.json"


@dataclass(frozen=True)
class _Maker:
    """Builds the objects of a study: what a checkpoint told only as a checkpoint's are built."""

    spec: StudySpec
    trust: Trust

    def __call__(self, key: str, node: Any, role: type[R]) -> R:
        if key in self.spec.stored:
            return build_stored(node, role, allowed=self.trust.allowed, where=f"study.{key}")
        return build(node, role, trust=self.trust, where=key)


def shown_modality(spec: StudySpec) -> Modality | None:
    """What the images of a study are; None for conversations, which may show both or none."""
    return None if target_of(spec.data) == CONVERSATIONS else "image"


def open_study(
    spec: StudySpec,
    subsets: Collection[str] | None,
    *,
    trust: Trust = NOTHING,
    watch: Watch | None = None,
) -> Study:
    """Read and check all data that a job needs.

    Args:
        spec: the study.
        subsets: which of ``train``, ``dev``, ``test`` will be used; None is all that are named.
        trust: what the command line trusts.
        watch: see StudyRequest.

    Raises:
        UserError: with every problem found.
    """
    spec = checked(spec)  # Python code may have told members of enums as texts
    if not spec.data:
        spec.require(split=False)
    make = _Maker(spec, trust)
    if target_of(spec.data) == CONVERSATIONS:
        conversations = ConversationStudy(make("data", spec.data, ConversationSource), spec)
        if subsets is None and not conversations.subsets:
            raise UserError("data.train, data.dev and data.test are not set: name a JSON file")
        return conversations
    source: DataSource = make("data", spec.data, DataSource)
    if subsets is None:
        subsets = ("train", "dev", "test") if source.names_test else ("train", "dev")
    labelled = bool({"train", "dev"} & set(subsets))
    spec.require(split=labelled)
    tasks = _tasks(spec, trust)
    if spec.records:
        sides = [side for side in subsets if side != "test"]
        names = [record_file(t, side, spec.suffix) for t in tasks.values() for side in sides]
        spec = as_built(spec, names)
    templates = templates_of(spec, tasks)
    shown = spec.sag_image or []
    if problem := unknown_slices(shown, source.layout.slices):
        raise UserError(problem)
    known_tasks = {**official_tasks(), **tasks}
    request = StudyRequest(tasks, official_tasks(), shown, subsets, spec.cache_folder, watch)
    cohort = source.load(request)
    split = None
    if labelled and not spec.records:
        splitter: Any = make("split", spec.split, Splitter)
        if source.drawn and getattr(splitter, "n_train", 0) is None:
            splitter.n_train = source.drawn  # a cohort that is drawn names its own numbers
        split = splitter.split(cohort.patients, known_tasks)
    study = PatientStudy(spec, source, cohort, tuple(subsets), split, tasks, templates)
    if labelled and spec.records:
        records = {
            side: {name: study.task_examples(task, side) for name, task in tasks.items()}
            for side in ("train", "dev")
        }
        where = f"records={spec.records}"
        split = split_of_records(records, cohort.patients, layout=cohort.layout, where=where)
        return replace(study, split=split)
    return study


def _tasks(spec: StudySpec, trust: Trust) -> dict[str, Task]:
    if "task" in spec.stored:
        stored = functools.partial(build_stored, allowed=trust.allowed)
        return build_tasks(spec.task or {}, build=stored, where="study.task")
    return build_tasks(spec.task or {}, build=functools.partial(build, trust=trust))


def require_patients(study: Study) -> PatientStudy:
    """The study, which must be of patients. Raises UserError for conversations."""
    if isinstance(study, ConversationStudy):
        raise UserError(
            "data=conversations: train, predict and doctor take conversations; this asks patients, "
            "so choose data=cervai or data=phantom"
        )
    return study


def templates_of(spec: StudySpec, tasks: Mapping[str, Task]) -> dict[str, str]:
    """The template of each task, checked."""
    prompts = spec.prompts or {}
    path = prompts.get("path")
    templates = read_templates(path) if path else prompts.get("templates") or {}
    if not isinstance(templates, Mapping):
        raise damaged([f"study.templates={templates!r}: expected an object, task -> template"])
    check_templates(templates, tasks, where=path or "prompts")
    if "prompts" not in spec.stored:  # a checkpoint is asked as it was trained
        check_line_breaks(templates, where=path or "prompts")
    return {name: templates.get(name) or task.prompt or "" for name, task in tasks.items()}
