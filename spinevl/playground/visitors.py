"""What the server keeps of each visitor, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spinevl.io.temporary import remove
from spinevl.playground.archive import Slot
from spinevl.playground.one_at_a_time import Job
from spinevl.playground.uploads import Shown, Uploads
from spinevl.schema.errors import UserError
from spinevl.schema.patient import Patient
from spinevl.schema.prediction import Prediction

_SWEPT_SECONDS = 10
_KEPT_SECONDS = 60  # what was received, until it must have been taken


@dataclass
class Visitor:
    """One tab of a browser.

    Attributes:
        folder: of its files.
        patient: the images of the study tab.
        truth: of a sample.
        level: the one that is chosen there.
        answers: to the study's questions.
        new_images: of the next question.
        images: of the questions that were asked, in order.
        rounds: (question, answer) of the conversation.
        job: what is being answered for it.
        seen: when it was last heard of.
    """

    folder: Path
    patient: Mapping[Slot, Path] = field(default_factory=dict)
    truth: Patient | None = None
    level: str = ""
    answers: list[Prediction] = field(default_factory=list)
    new_images: list[Shown] = field(default_factory=list)
    images: list[Shown] = field(default_factory=list)
    rounds: list[tuple[str, str]] = field(default_factory=list)
    job: Job[Any] | None = None
    seen: float = 0.0

    def stop(self) -> None:
        """End what is being answered for it."""
        if self.job is not None:
            self.job.stop()

    def require_patient(self) -> Mapping[Slot, Path]:
        """The images of the study tab. Raises UserError where there are none."""
        if not self.patient:
            raise UserError("there is no patient yet: choose a sample, or drop images")
        return self.patient

    def forget_patient(self) -> None:
        """Remove the images of the study tab, but for a sample's."""
        for path in self.patient.values():
            if path.is_relative_to(self.folder):
                remove(path)
        self.patient, self.truth, self.answers = {}, None, []

    def forget_conversation(self) -> None:
        """Remove the conversation with its images."""
        for one in [*self.images, *self.new_images]:
            remove(Path(one.image.path))
        self.images, self.new_images, self.rounds = [], [], []


class Visitors:
    """The visitors by the name of their tab; those who were idle too long, or are too many, leave.

    As a context manager it looks after them in a thread of its own.

    Args:
        uploads: where their folders lie.
    """

    def __init__(self, uploads: Uploads) -> None:
        self.uploads = uploads
        self._closed = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="spinevl-sweeper", daemon=True)
        self._limits = uploads.limits
        self._known: dict[str, Visitor] = {}  # the longest idle one first
        self._lock = threading.Lock()

    def __enter__(self) -> Visitors:
        self._sweeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._sweeper.join()

    def _sweep(self) -> None:
        while not self._closed.wait(_SWEPT_SECONDS):
            self.remove_idle()

    def of(self, name: str | None) -> Visitor:
        """A visitor, new or known; the name is a key and nothing else."""
        now = time.monotonic()
        with self._lock:
            visitor = self._known.pop(name or "", None)
            if visitor is None:
                visitor = Visitor(self.uploads.new_folder())
            visitor.seen = now
            self._known[name or ""] = visitor
            surplus = list(self._known)[: max(0, len(self._known) - self._limits.visitors)]
            gone = [self._known.pop(key) for key in surplus]
        self._remove(*gone)
        return visitor

    def remove_idle(self) -> None:
        """Remove the files of visitors who were idle too long, and what was received and taken."""
        oldest = time.monotonic() - 60 * self._limits.idle_minutes
        with self._lock:
            idle = [key for key, one in self._known.items() if one.seen < oldest]
            gone = [self._known.pop(key) for key in idle]
        self._remove(*gone)
        self.uploads.discard_older(_KEPT_SECONDS)

    def leave(self, name: str | None) -> None:
        """Stop what a visitor waits for, and remove the files."""
        with self._lock:
            visitor = self._known.pop(name or "", None)
        if visitor is not None:
            self._remove(visitor)

    def _remove(self, *gone: Visitor) -> None:
        for one in gone:
            one.stop()
            remove(one.folder)
