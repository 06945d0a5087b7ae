"""Why this answer: a map of what the answer to one question of the study depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from spinevl.playground import pictures
from spinevl.playground.archive import slot_of
from spinevl.playground.engine import Engine
from spinevl.playground.messages import told, waiting
from spinevl.playground.visitors import Visitor, Visitors
from spinevl.schema.errors import refused

_MEANING = (
    "The model is asked again with one place of an image covered, for each place in turn. Places "
    "are red where that makes the answer less probable, and blue where more probable. Such a map "
    "does not show that the answer is right, or why, or what several places do together: a model "
    "that is right by accident has one too."
)


@dataclass
class Why:
    """What the part of the study tab below the strip does; Gradio calls it.

    Attributes:
        engine: answers.
        visitors: whose images are whose.
    """

    engine: Engine
    visitors: Visitors

    def build(self, level: Any) -> Any:
        """Add it to the page.

        Args:
            level: where a visitor chooses the level.

        Returns:
            Where the maps are shown, to be emptied with the patient.
        """
        closed = [(one.title, one.name) for one in self.engine.tasks.values() if one.closed]
        with gr.Accordion("Why this answer", open=False, elem_id="why", visible=bool(closed)):
            gr.HTML(f'<p class="spine-small">{_MEANING}</p>')
            task = gr.Dropdown(
                closed, value=closed[0][1] if closed else None, label="Task", elem_id="why-task"
            )
            show = gr.Button("Show the map of this task at the level above", elem_id="show-why")
            shown = gr.HTML(elem_id="map")
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        show.click(self.show, [task, level], [shown], **private)
        return shown

    def show(self, name: str | None, level: str | None, request: gr.Request) -> Iterator[str]:
        """Cover the images of one question, and show what that does."""
        visitor = self.visitors.of(request.session_hash)
        visitor.stop()
        try:
            yield from self._maps(visitor, name, level)
        except Exception as error:
            yield told(error)

    def _maps(self, visitor: Visitor, name: str | None, level: str | None) -> Iterator[str]:
        if (task := self.engine.tasks.get(name or "")) is None:
            names = ", ".join(one.title for one in self.engine.tasks.values() if one.closed)
            raise refused("Task", f"one of {names}", "none", "choose one")
        asked = "" if not task.levels else level or ""
        if asked not in task.objects:
            levels = ", ".join(task.levels)
            raise refused(task.title, f"one of its levels ({levels})", asked, "choose another")
        patient = visitor.require_patient()
        visitor.job = job = self.engine.explain(patient, task.name, asked)
        for update in job.updates():
            if update.value is None:
                yield pictures.status(waiting(update.ahead))
            else:
                option = task.choices[update.value[0].label]
                maps = "".join(
                    pictures.map_over(patient[slot_of(one.image)], one) for one in update.value
                )
                where = f"{task.title}, {asked}" if asked else task.title
                yield pictures.maps(f"{where}: {option}", maps)
        if job.stopped:
            yield pictures.status("stopped")
