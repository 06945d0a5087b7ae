"""What a study is made of, as data: it goes into job specs and checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from spinevl.build.allowlist import target_of
from spinevl.config.annotations import shown
from spinevl.config.check import from_plain, node_problems, problems
from spinevl.config.options import SagType, TestAnswers
from spinevl.io.files import expanded, made_folder
from spinevl.schema.errors import UserError, escaped
from spinevl.schema.study_layout import AUTO, StudyLayout

log = logging.getLogger(__name__)

# keys of a data or split node that name files
PATHS = (
    *("labels", "boxes", "train_images", "test_images", "test_labels"),
    *("test_truth", "test_boxes"),
    *("train", "dev", "test", "images"),
)
_EXAMPLES = {
    "data": "data=cervai",
    "task": "'task=[qd,sl,zjppt,zyzg]'",
    "prompts": "prompts=en",
    "sag_image": "'sag_image=[6]'",
    "sag_type": "sag_type=joint",
    "split": "split=stratified",
}


def damaged(problems: Iterable[str]) -> UserError:
    """The error for wrong values in the ``study`` of a checkpoint."""
    return UserError(f"{one}; the checkpoint's config.json is damaged" for one in problems)


@dataclass(frozen=True)
class StudySpec:
    """Whom to ask what, and how; None is as a checkpoint was trained.

    Attributes:
        data, split: nodes of the data source and of the split.
        task: task name -> its node.
        prompts: ``path`` of a template file, or ``templates``, task -> template.
        sag_image, sag_type: the sagittal slices shown, ``joint`` or ``separate``.
        test_answers: ``upstream`` takes the template's labels as answers of test records.
        records, suffix: the folder of an earlier build to read, and the end of its files' names.
        cache_dir: where sources may keep what they make.
        stored: fields that a checkpoint told.
    """

    data: dict[str, Any] | None = None
    split: dict[str, Any] | None = None
    task: dict[str, Any] | None = None
    prompts: dict[str, Any] | None = None
    sag_image: list[int] | None = None
    sag_type: SagType | None = None
    test_answers: TestAnswers = TestAnswers.none
    records: str | None = None
    suffix: str | None = None
    cache_dir: str = "~/.cache/spinevl"
    stored: list[str] = field(default_factory=list)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> StudySpec:
        """The study that a job's resolved config describes."""
        named = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        return from_plain(cls, named)

    def filled(self, stored: Mapping[str, Any]) -> StudySpec:
        """The same with what is None as the ``study`` of a checkpoint has it.

        Raises:
            UserError: the checkpoint holds values of another type.
        """
        known = {**stored, "prompts": {"path": None, "templates": stored.get("templates")}}
        missing = [name for name in _EXAMPLES if not getattr(self, name)]
        found: dict[str, Any] = {name: known.get(name) for name in missing}
        wrong = problems(StudySpec, found, at="study", partial=True)
        for name in ("data", "split"):
            if isinstance(node := found.get(name), Mapping):
                wrong += node_problems(node, at=f"study.{name}")
        if wrong:
            raise damaged(wrong)
        for name in ("data", "split"):
            node = found.get(name) or {}
            named = {key: node[key] for key in PATHS if isinstance(node.get(key), str)}
            if files := [f"{name}.{key}={path}" for key, path in named.items()]:
                log.info("files that the checkpoint names: %s", escaped(" ".join(files)))
        self._tell_unseen(stored)
        told = from_plain(StudySpec, found)
        named = {name: getattr(told, name) for name in missing}
        return replace(self._with_layout(stored.get("data")), **named, stored=missing)

    def _tell_unseen(self, stored: Mapping[str, Any]) -> None:
        """Warn of tasks and slices that a checkpoint was not trained on."""
        for name in ("task", "sag_image"):
            trained, asked = stored.get(name), getattr(self, name) or ()
            if not isinstance(trained, (list, Mapping)) or not trained:
                continue
            if unseen := [str(one) for one in asked if one not in trained]:
                known = escaped(",".join(map(str, trained)))
                told = f"{name}=[{','.join(unseen)}]"
                log.warning("%s: the checkpoint was trained on %s=[%s] alone", told, name, known)

    def _with_layout(self, trained: Any) -> StudySpec:
        """The same with the layout of the images that a checkpoint was trained on, where the data
        are of the same kind and leave it open."""
        if not self.data or not isinstance(trained, Mapping):
            return self
        if not target_of(self.data) or target_of(self.data) != target_of(trained):
            return self
        open_keys = [one.name for one in fields(StudyLayout) if self.data.get(one.name) == AUTO]
        layout = {key: trained[key] for key in open_keys if trained.get(key, AUTO) != AUTO}
        if wrong := node_problems({**self.data, **layout}, at="study.data"):
            raise damaged(wrong)
        if layout:
            told = " ".join(f"data.{key}={shown(value)}" for key, value in layout.items())
            log.info("as the checkpoint was trained: %s", escaped(told))
        return replace(self, data={**self.data, **layout})

    def require(self, *, split: bool) -> None:
        """Raise UserError for what neither the command nor the checkpoint says."""
        told = {**asdict(self), "prompts": self.prompts and any(self.prompts.values())}
        needed = [name for name in _EXAMPLES if name != "split" or (split and not self.records)]
        if missing := [name for name in needed if not told[name]]:
            raise UserError(
                f"{', '.join(missing)}: the checkpoint does not say, since it was not trained on "
                "patients; add " + " ".join(_EXAMPLES[name] for name in missing)
            )

    def files(self) -> dict[str, Path]:
        """Input files beside the data source's own: a prompt file, the id files of a split."""
        prompts, split = self.prompts or {}, self.split or {}
        named = {
            "prompts": prompts.get("path"),
            "split_train": split.get("train"),
            "split_dev": split.get("dev"),
        }
        return {name: expanded(path) for name, path in named.items() if path}

    def cache_folder(self) -> Path:
        """The cache folder, made if need be; absolute. Raises UserError where it cannot be."""
        return made_folder(self.cache_dir, "cache_dir")


def with_absolute_paths(node: Mapping[str, Any]) -> dict[str, Any]:
    """A data or split node whose files are found from any working directory."""
    return {
        key: str(expanded(value, key).absolute()) if key in PATHS and value else value
        for key, value in node.items()
    }
