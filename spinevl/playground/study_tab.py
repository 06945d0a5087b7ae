"""The study tab: a patient's images, and all questions of the study about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from spinevl.evaluation.join import with_truth
from spinevl.playground import pictures
from spinevl.playground.archive import Slot
from spinevl.playground.engine import Engine
from spinevl.playground.messages import told, waiting
from spinevl.playground.patient_files import file_name, take_patient
from spinevl.playground.samples import Sample
from spinevl.playground.visitors import Visitor, Visitors
from spinevl.playground.why import Why
from spinevl.schema.prediction import Prediction

_NO_SAMPLE = "none"
_NO_PATIENT = (
    "<p>There are no images yet: choose a sample, or drop images. Then ask all questions.</p>"
)


@dataclass
class StudyTab:
    """What the study tab does; Gradio calls it.

    Attributes:
        engine: answers.
        visitors: whose images are whose.
        samples: rendered patients to choose from.
    """

    engine: Engine
    visitors: Visitors
    samples: Sequence[Sample]

    def build(self) -> None:
        """Add the tab to the page."""
        if not self.engine.tasks:
            gr.HTML("<p>This checkpoint was trained on conversations: use the chat tab.</p>")
            return
        levels = self._levels
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                names = [_NO_SAMPLE, *(one.name for one in self.samples)]
                sample = gr.Dropdown(
                    names, value=_NO_SAMPLE, label="Sample", elem_id="sample",
                    visible=bool(self.samples),
                )  # fmt: skip
                files = gr.File(
                    label="Images of one patient", file_count="multiple",
                    height=150, elem_id="patient",
                )  # fmt: skip
                gr.HTML(self._wanted())
                with gr.Row():
                    ask = gr.Button(
                        "Ask all questions", variant="primary", scale=3, min_width=160,
                        elem_id="ask-study",
                    )  # fmt: skip
                    stop = gr.Button("Stop", elem_id="stop-study", min_width=60)
                message = gr.HTML(elem_id="study-message")
            with gr.Column(scale=3, min_width=320):
                with gr.Row():
                    with gr.Column(scale=max(1, len(self._sagittal)), min_width=200):
                        sagittal = gr.HTML(_NO_PATIENT, elem_id="sagittal")
                    with gr.Column(scale=1, min_width=200):
                        axial = gr.HTML(elem_id="axial")
                gr.HTML(pictures.note_on_boxes(self.engine.tasks))
                level = gr.Radio(
                    levels, value=levels[0] if levels else None, label="Level", elem_id="level",
                    visible=bool(levels),
                )  # fmt: skip
                strip = gr.HTML(elem_id="strip")
                maps = Why(self.engine, self.visitors).build(level)
        outputs = [message, sagittal, axial, strip]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        files.upload(self.take, [files, level], [files, sample, maps, *outputs], **private)
        sample.input(self.choose, [sample, level], [maps, *outputs], **private)
        level.input(self.show_level, [level], [axial, strip], **private)
        ask.click(self.ask, [level], outputs, **private)
        stop.click(self.stop, None, None, **private)

    @property
    def _sagittal(self) -> list[Slot]:
        return [slot for slot in self.engine.slots if isinstance(slot, int)]

    @property
    def _levels(self) -> list[str]:
        """The levels of all tasks from the head down, those with an axial image among them."""
        closed = [task for task in self.engine.tasks.values() if task.closed]
        return sorted({level for task in closed for level in task.levels})

    def _wanted(self) -> str:
        names = [file_name(self.engine.layout, slot) for slot in self.engine.slots]
        side = self.engine.layout.side_px
        size = f" of {side} x {side} pixels" if side else ""
        told = ", ".join(names)
        example = names[0].replace("/", "_")
        return (
            f'<p class="spine-small">A zip with one patient\'s images, 8-bit grey PNGs{size}: '
            f"{told}. Or these images as single files, with <code>_</code> in place of "
            f"<code>/</code>, such as <code>{example}</code>.</p>"
        )

    def take(self, files: list[str] | None, level: str, request: gr.Request) -> tuple[Any, ...]:
        """A visitor has dropped files."""

        def take(visitor: Visitor) -> None:
            uploads, engine = self.visitors.uploads, self.engine
            received = uploads.all_received(files)
            images = take_patient(
                uploads, received, visitor.folder, layout=engine.layout, wanted=engine.slots
            )
            visitor.forget_patient()
            visitor.patient = images

        return (None, _NO_SAMPLE, "", *self._changed(take, level, request))

    def choose(self, name: str, level: str, request: gr.Request) -> tuple[Any, ...]:
        """A visitor has chosen a sample."""

        def choose(visitor: Visitor) -> None:
            visitor.forget_patient()
            for sample in self.samples:
                if sample.name == name:
                    visitor.patient, visitor.truth = sample.images, sample.truth

        return ("", *self._changed(choose, level, request))

    def _changed(
        self, change: Callable[[Visitor], None], level: str, request: gr.Request
    ) -> tuple[str, str, str, str]:
        """The page after ``change`` has changed a visitor's images."""
        visitor = self._visitor(request, level)
        visitor.stop()
        try:
            change(visitor)
        except Exception as error:
            return told(error), *self._shown(visitor)
        return "", *self._shown(visitor)

    def ask(self, level: str, request: gr.Request) -> Iterator[tuple[Any, Any, Any, Any]]:
        """Ask all questions; what is going on is shown meanwhile."""
        visitor = self._visitor(request, level)
        visitor.stop()
        same: Any = gr.skip()
        try:
            patient = visitor.require_patient()
            visitor.job = job = self.engine.ask_study(patient)
            for update in job.updates():
                if update.value is None:
                    yield pictures.status(waiting(update.ahead)), same, same, same
                    continue
                if visitor.patient is patient:
                    visitor.answers = self._with_truth(visitor, update.value)
                yield "", *self._shown(visitor)
            if job.stopped:
                yield pictures.status("stopped"), same, same, same
        except Exception as error:
            yield told(error), same, same, same

    def _with_truth(self, visitor: Visitor, answers: Sequence[Prediction]) -> list[Prediction]:
        known = [visitor.truth] if visitor.truth else []
        return with_truth(answers, known, self.engine.tasks)

    def show_level(self, level: str, request: gr.Request) -> tuple[str, str]:
        """A visitor has clicked a level."""
        _, axial, strip = self._shown(self._visitor(request, level))
        return axial, strip

    def stop(self, request: gr.Request) -> None:
        """A visitor waits no more."""
        self.visitors.of(request.session_hash).stop()

    def _visitor(self, request: gr.Request, level: str) -> Visitor:
        """Who asks, and the level that is chosen: an answer that comes later is shown with it."""
        visitor = self.visitors.of(request.session_hash)
        visitor.level = level or ""
        return visitor

    def _shown(self, visitor: Visitor) -> tuple[str, str, str]:
        """The sagittal slices, the axial slice of the level, and the strip."""
        patient, level = dict(visitor.patient), visitor.level
        if not patient:
            return _NO_PATIENT, "", ""
        return (
            pictures.slices(patient, self._sagittal, visitor.answers),
            pictures.slices(patient, [level] if level in patient else []),
            pictures.strip(self.engine.tasks, visitor.answers, level),
        )
