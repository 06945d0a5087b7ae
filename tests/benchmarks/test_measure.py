"""What ``make bench`` measures, with a tiny model and one patient."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import flops, measure, subject


@pytest.fixture(autouse=True)
def _known_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring it takes seconds."""
    monkeypatch.setattr(flops, "matmul_rate", lambda: 1e11)


def test_answers_are_timed_in_each_way(tmp_path: Path) -> None:
    nodes = subject.parts(tmp_path, image_size=64, **subject.SMALL)
    found = measure.predict(nodes, subject.patients(tmp_path, count=1), tmp_path, 1)
    assert all(seconds > 0 for seconds in found["seconds_a_patient"].values())
    assert 0 < found["gflop_a_patient"]["warm"] < found["gflop_a_patient"]["cold"]
    assert 0 < found["tokens_a_patient"] < found["tokens_unshared"]


def test_training_is_timed_with_equal_losses(tmp_path: Path) -> None:
    nodes = subject.parts(tmp_path, image_size=64, **subject.SMALL)
    found = measure.train(nodes, subject.patients(tmp_path, count=1), tmp_path, 1)
    assert found["losses"]["ours"] == pytest.approx(found["losses"]["naive"], abs=1e-4)
    assert all(rate > 0 for rate in found["questions_a_second"].values())
