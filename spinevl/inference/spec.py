"""What a checkpoint is asked, as data: a process that answers a share of it reads this file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from spinevl.config.check import from_plain
from spinevl.config.options import FeatureCacheOptions, PredictOptions
from spinevl.data.examples import swapped
from spinevl.data.study import ConversationStudy, PatientStudy, Study
from spinevl.data.study_spec import StudySpec
from spinevl.inference.devices import device_count
from spinevl.inference.precision import settled
from spinevl.inference.progress import Progress, answer_keys
from spinevl.io.files import write_text_atomic
from spinevl.io.json_file import read_json_object
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example

FOLDER = ".predict"
"""Below the job's folder, for as long as several processes answer: the spec, and their logs."""


@dataclass(frozen=True)
class Request:
    """Whom a model is asked about.

    Attributes:
        subset: ``train``, ``dev`` or ``test``.
        swapped: whether each patient's questions are shown the next patient's images.
    """

    subset: str
    swapped: bool = False

    def examples(self, study: Study) -> list[Example]:
        """What is asked; the last question of a conversation waits for its answer."""
        if isinstance(study, ConversationStudy):
            return [example for _, example in study.source.read(self.subset, answered=False)]
        examples = study.examples(self.subset)
        return swapped(examples, study.patients(self.subset)) if self.swapped else examples


@dataclass(frozen=True)
class PredictSpec:
    """All that decides a model's answers. What the user trusts is not in it.

    Attributes:
        checkpoint: the folder of the model.
        study: whom to ask what, with what the checkpoint told.
        subsets: of the study that are opened; None is all that are named.
        options: how answers are read off the model, and on how many devices.
        feature_cache: whether, and how many, features of a frozen encoder are kept.
        device: ``cpu``, ``cuda`` or ``mps``.
        vllm: the version of vLLM that generates answers; None where the model does.
        requests: whom it is asked about.

    Raises:
        UserError: more devices are asked for than there are.
    """

    checkpoint: str
    study: StudySpec
    subsets: list[str] | None
    options: PredictOptions
    feature_cache: FeatureCacheOptions
    device: str
    vllm: str | None = None
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        device_count(self.options.devices, self.device)

    def settled(self) -> PredictSpec:
        """The same with all decided that its options leave open."""
        options = settled(
            self.options,
            checkpoint=Path(self.checkpoint),
            device=self.device,
            cache_folder=self.study.cache_folder,
        )
        return replace(self, options=options)

    @property
    def told(self) -> dict[str, str]:
        """What this machine decided, as a job notes it."""
        told = {"predict.precision": str(self.options.precision)}
        return {**told, "predict.engine": f"vllm {self.vllm}"} if self.vllm else told

    def progress(
        self, request: Request, examples: Sequence[Example], study: Study, *, out: Path
    ) -> Progress:
        """The answers to a request that are known already, in a file of the job's folder.

        Those to conversations are a result, ``answers.jsonl``; patients' are hidden until the job
        is done.
        """
        name, options = "answers.jsonl", None
        settings: Any = None
        if isinstance(study, PatientStudy):
            name = f".predictions.{request.subset}{'_swapped' * request.swapped}.jsonl"
            options = [len(one.options) for one in examples]
        else:
            settings = study.source.window
        if self.vllm:
            settings = (settings, self.vllm)
        folder = Path(self.checkpoint)
        keys = answer_keys(examples, checkpoint=folder, options=self.options, settings=settings)
        return Progress(out / name, keys, options)

    def write(self, out: Path, requests: Sequence[Request]) -> None:
        """Write it into a job's folder, with what is asked."""
        content = asdict(replace(self, requests=list(requests)))
        write_text_atomic(
            out / FOLDER / "spec.json", json.dumps(content, indent=2, ensure_ascii=False)
        )

    @classmethod
    def read(cls, out: Path) -> PredictSpec:
        """What ``write`` wrote. Raises UserError for a file that is no such spec."""
        path = out / FOLDER / "spec.json"
        content = read_json_object(path)
        try:
            spec = from_plain(cls, content)
            return replace(spec, requests=[from_plain(Request, one) for one in spec.requests])
        except UserError as error:
            raise UserError([f"{path}: {problem}" for problem in error.problems]) from error


def unanswered_file(out: Path, rank: int) -> Path:
    """Where a process tells which examples it could not answer: a JSON list of problems."""
    return out / FOLDER / f"unanswered-{rank}.json"
