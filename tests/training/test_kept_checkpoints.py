"""Which checkpoints a training keeps, and when one is removed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from spinevl.training.kept_checkpoints import KeptCheckpoints


class Weights:
    """Writes a number; the disk is full from one number on."""

    def __init__(self, full_from: int = 99) -> None:
        self.now = 0
        self.full_from = full_from

    def write(self, folder: Path) -> None:
        if self.now >= self.full_from:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").unlink(missing_ok=True)
        (folder / "weights").write_text(f"{self.now}")


def keep(out: Path, scored: dict[int, float], *, most: int, full_from: int = 99) -> None:
    """As the callback does: score after score, the best ones written."""
    weights = Weights(full_from)
    kept_checkpoints = KeptCheckpoints(out, weights.write, most=most)
    for step in scored:
        past = [one for one in scored if one <= step]
        kept = sorted(past, key=lambda one: (scored[one], one), reverse=True)[:most]
        if step in kept:
            weights.now = step
            kept_checkpoints(step, kept)


def found(out: Path) -> dict[str, str]:
    files = sorted(out.rglob("weights"))
    return {str(one.parent.relative_to(out)): one.read_text() for one in files}


SCORED = {3: 0.4, 6: 0.7, 9: 0.5, 12: 0.6, 15: 0.7, 18: 0.1}


@pytest.mark.parametrize(
    ("most", "steps"), [(1, []), (2, [6, 15]), (3, [6, 12, 15]), (9, [3, 6, 9, 12, 15, 18])]
)
def test_the_best_few_stay_each_under_its_step(tmp_path: Path, most: int, steps: list[int]) -> None:
    keep(tmp_path, SCORED, most=most)
    named = {f"checkpoints/step-{step:08d}": f"{step}" for step in steps}
    assert found(tmp_path) == {"checkpoint": "15", **named}
    for name in list(named)[-1:] if most == 2 else ():  # no room is taken twice
        best, own = tmp_path / "checkpoint/weights", tmp_path / name / "weights"
        assert best.stat().st_ino == own.stat().st_ino


def test_a_full_disk_removes_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        keep(tmp_path, SCORED, most=2, full_from=15)
    steps = {f"checkpoints/step-{step:08d}": f"{step}" for step in (6, 12)}
    assert found(tmp_path) == {"checkpoint": "6", **steps}


def test_another_training_in_the_folder_removes_the_earlier_ones_steps_and_nothing_else(
    tmp_path: Path,
) -> None:
    keep(tmp_path, SCORED, most=3)
    mine = tmp_path / "checkpoints/step-00000006-mine"
    (tmp_path / "checkpoints/step-00000006").rename(mine)
    keep(tmp_path, {4: 0.1, 8: 0.2}, most=1)
    assert found(tmp_path) == {"checkpoint": "8", "checkpoints/step-00000006-mine": "6"}
