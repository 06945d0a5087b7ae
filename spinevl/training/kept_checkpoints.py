"""The checkpoints of a training: the best one, and one of each step with one of the best scores."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from spinevl.distributed.ranks import barrier, is_first
from spinevl.io.folders import whole_folder
from spinevl.io.temporary import put_away, remove_leftovers
from spinevl.report.metrics_file import KEPT_FOLDER

_NAME = re.compile(r"step-\d{8,}")


class KeptCheckpoints:
    """Writes ``checkpoint/`` and, where ``most`` is above 1, ``checkpoints/step-N/``.

    Nothing is removed before what takes its place is complete.

    Args:
        out: the job's folder.
        write: writes the weights as they are now into a folder; every process calls it.
        most: how many are kept.
    """

    def __init__(self, out: Path, write: Callable[[Path], None], *, most: int) -> None:
        self.best = out / "checkpoint"
        self.folder = out / KEPT_FOLDER
        self.write = write
        self.most = most

    def __call__(self, step: int, kept: Sequence[int]) -> None:
        """Write the weights of a step, and remove those that are not kept; every process calls it.

        Args:
            step: one of those that are kept.
            kept: the steps with the best scores, the best one first.
        """
        if self.most == 1:
            self.write(self.best)
        else:
            # under its own name first: a training that goes on from an earlier state cannot tell
            # which step checkpoint/ holds
            own = self._of(step)
            self.write(own)
            if kept[0] == step and is_first():
                with whole_folder(self.best) as new:
                    shutil.copytree(own, new, copy_function=_linked, dirs_exist_ok=True)
        if is_first() and self.folder.is_dir():
            self._remove_all_but(kept if self.most > 1 else ())
        barrier()

    def _of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _remove_all_but(self, kept: Sequence[int]) -> None:
        remove_leftovers(self.folder)
        stay = {self._of(step) for step in kept}
        for old in self.folder.iterdir():
            if _NAME.fullmatch(old.name) and old not in stay:
                put_away(old)


def _linked(source: str, target: str) -> None:
    """The same file under a second name, which takes no room; a copy where there are no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
