"""One checkpoint that answers studies and conversations, one request at a time.

It knows of no page and no visitor: whoever asks hands over all that the answer depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from spinevl.config.options import PredictMode, PredictOptions
from spinevl.config.options.playground import LimitOptions
from spinevl.inference.answer import Answer
from spinevl.inference.api import SpineModel
from spinevl.inference.occlusion import OcclusionMap, occlusion_maps
from spinevl.inference.predictor import Predictor, predictions
from spinevl.io.image_file import load_image, load_rgb
from spinevl.io.volume_file import Window, load_volume
from spinevl.models.generate import Sampling
from spinevl.playground.archive import Slot
from spinevl.playground.one_at_a_time import Job, OneAtATime
from spinevl.playground.patient_files import PATIENT
from spinevl.schema.conversation import PLACEHOLDER
from spinevl.schema.errors import UserError, refused
from spinevl.schema.example import Example, Key, Rounds
from spinevl.schema.image_ref import MODALITIES, ImageRef
from spinevl.schema.prediction import Prediction

_CT_WINDOW = (-1000.0, 1000.0)


@dataclass(frozen=True)
class ChatOptions:
    """How a conversation is answered.

    Attributes:
        sampling: how tokens are chosen.
        new_tokens: the longest answer.
    """

    sampling: Sampling = field(default_factory=Sampling)
    new_tokens: int = 512

    @classmethod
    def told(
        cls, *, temperature: float, top_p: float, repetition_penalty: float, new_tokens: float
    ) -> ChatOptions:
        """Of numbers that anybody may have sent. Raises UserError for one that has no meaning."""
        for name, value, low, high in (
            ("temperature", temperature, 0, 2),
            ("top-p", top_p, 0.01, 1),
            ("repetition penalty", repetition_penalty, 0.01, 10),
            ("maximum tokens", new_tokens, 1, 10**6),
        ):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise refused(name, f"{low} to {high}", repr(value), "move its slider")
        sampling = Sampling(float(temperature), float(top_p), float(repetition_penalty))
        return cls(sampling, int(new_tokens))


class Engine:
    """Answers with one model.

    Args:
        model: the checkpoint, on its device.
        limits: of time, waiting requests and sizes.
    """

    def __init__(self, model: SpineModel, limits: LimitOptions) -> None:
        self.model = model
        self.limits = limits
        self.tasks = model.tasks
        self.layout = model.layout
        self._queue = OneAtATime(most=limits.waiting, seconds=limits.seconds)
        self._options = PredictOptions(mode=PredictMode.choice, batch_size=1)

    def close(self) -> None:
        """Stop what is being answered and what waits."""
        self._queue.close()

    @property
    def slots(self) -> list[Slot]:
        """The images of a patient that the study shows, sagittal ones first."""
        if not self.tasks:
            return []
        shown = (one for task in self.tasks.values() if task.axial for one in task.levels)
        return [*self.model.checkpoint.study["sag_image"], *dict.fromkeys(shown)]

    @property
    def window(self) -> Window | None:
        """Of volumes: as in the training, or the default of ``data=conversations``."""
        stored = (self.model.checkpoint.study.get("data") or {}).get("window", _CT_WINDOW)
        return None if stored is None else (float(stored[0]), float(stored[1]))

    @property
    def modalities(self) -> tuple[str, ...]:
        """What a conversation can show: ``image``, ``image3d`` or both."""
        branches = self.model.checkpoint.model.vision_branches()
        return tuple(one for one in MODALITIES if one in branches)

    def ask_study(self, images: Mapping[Slot, Path]) -> Job[list[Prediction]]:
        """All questions of the study about one patient, answered as ``predict`` answers them.

        Args:
            images: the files of ``slots``.

        Raises:
            UserError: too many requests wait. What is wrong with the images comes with the job.
        """

        def work(job: Job[list[Prediction]]) -> Iterator[list[Prediction]]:
            examples, decode = self._questions(images)
            predictor = Predictor(
                self.model.checkpoint.model, decode, options=self._options, each_step=job.check
            )
            answers: dict[int, Answer] = {}
            for index, answer in predictor.answers(examples):
                job.check()
                answers[index] = answer
            yield predictions(examples, [answers[k] for k in range(len(examples))])

        return self._queue.submit(work)

    def explain(
        self, images: Mapping[Slot, Path], task: str, level: str
    ) -> Job[list[OcclusionMap]]:
        """What the answer to one closed question depends on: the maps so far, see occlusion_maps.

        Args:
            images: the files of ``slots``.
            task, level: the question; the level is empty where the task has none.

        Raises:
            UserError: too many requests wait.
        """

        def work(job: Job[list[OcclusionMap]]) -> Iterator[list[OcclusionMap]]:
            examples, decode = self._questions(images)
            asked = [one for one in examples if (one.key.task, one.key.level) == (task, level)]
            found: list[OcclusionMap] = []
            model = self.model.checkpoint.model
            for one in occlusion_maps(model, asked, decode, each_step=job.check):
                found.append(one)
                yield list(found)

        return self._queue.submit(work)

    def _questions(
        self, images: Mapping[Slot, Path]
    ) -> tuple[list[Example], Callable[[ImageRef], np.ndarray]]:
        """What the study asks about one patient, and the pixels of its images."""
        side, most = self.layout.side_px, self.limits.pixels
        arrays = {
            slot: load_image(path, side_px=side, max_pixels=most) for slot, path in images.items()
        }
        return self.model.questions({PATIENT: arrays})

    def ask(self, rounds: Rounds, images: Sequence[ImageRef], options: ChatOptions) -> Job[str]:
        """The answer to the last question of a conversation, as it is written.

        Args:
            rounds: (question, answer) so far; the last answer is None.
            images: in the order of their placeholders.
            options: how to answer.

        Raises:
            UserError: too many requests wait, or a question or an answer beyond the limits. What
                is wrong with the conversation comes with the job.
        """
        self._require_within_limits(rounds, images, options)
        said = tuple((question, a and PLACEHOLDER.sub("", a)) for question, a in rounds)
        example = Example(Key("chat", ""), tuple(images), said, source="the conversation")

        def work(job: Job[str]) -> Iterator[str]:
            settings = replace(self._options, max_new_tokens=options.new_tokens)
            predictor = Predictor(self.model.checkpoint.model, self._decode, options=settings)
            yield from predictor.stream(example, options.sampling)

        return self._queue.submit(work)

    def _require_within_limits(
        self, rounds: Rounds, images: Sequence[ImageRef], options: ChatOptions
    ) -> None:
        limits = self.limits
        question = rounds[-1][0]
        if not PLACEHOLDER.sub("", question).strip():
            raise refused("the question", "text", "none", "write one")
        for found, most, what, name in (
            (len(question), limits.characters, "characters of a question", "characters"),
            (len(rounds), limits.turns, "questions of a conversation", "turns"),
            (len(images), limits.images, "images of a conversation", "images"),
            (options.new_tokens, limits.new_tokens, "tokens of an answer", "new_tokens"),
        ):
            if found > most:
                wanted = f"at most {most} {what} (limits.{name})"
                raise refused("the conversation", wanted, str(found), "shorten it, or clear it")

    def _decode(self, image: ImageRef) -> np.ndarray:
        if image.modality == "image3d":
            return load_volume(image.path, window=self.window, max_voxels=self.limits.voxels)
        return load_rgb(image.path, max_pixels=self.limits.pixels)


def question_with_images(text: str, modalities: Sequence[str]) -> str:
    """A question with a placeholder for each new image; those that the text has already stay.

    Raises:
        UserError: placeholders that are not those of the images.
    """
    wanted = [f"<{one}>" for one in modalities]
    found = PLACEHOLDER.findall(text)
    if not found:
        return "".join(wanted) + "\n" * bool(wanted) + text
    if sorted(found) != sorted(wanted):
        shown = " ".join(wanted) or "none"
        raise UserError(
            f"the question: expected a placeholder for each new image ({shown}), found "
            f"{' '.join(found)}; leave them out, and they stand in front of the question"
        )
    return text
