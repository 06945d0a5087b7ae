"""``trainer.precision=auto`` on a CPU: bfloat16 where it is measured to be faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spinevl.models import half_speed
from spinevl.training import precision
from spinevl.training.precision import settle_precision
from spinevl.training.prepare import held_of
from spinevl.training.spec import TrainSpec

Make = Callable[..., TrainSpec]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A CPU that is twice as fast with it; the sizes that it was asked about."""
    asked: list[tuple[int, int]] = []

    def speedup(device: str, *, width: int, inner: int, folder: Path | None) -> float:
        asked.append((width, inner))
        return 2.0

    monkeypatch.setattr(half_speed, "bfloat16_speedup", speedup)
    for one in (half_speed, precision):
        monkeypatch.setattr(one, "computes_in_bfloat16", lambda device: True)
    return asked


def test_an_llm_that_is_faster_with_it_trains_in_it(
    make_spec: Make, measured: list[tuple[int, int]]
) -> None:
    lines: list[str] = []
    spec = settle_precision(
        make_spec("llm.width=256", "trainer.accelerator=cpu"), tell=lines.append
    )
    assert spec.trainer.precision == "bf16-mixed"
    assert measured == [(256, 1024)]
    assert len(lines) == 1
    assert "trainer.precision=32-true" in lines[0]


@pytest.mark.parametrize(
    "words",
    [
        ("llm.width=64",),
        ("llm.width=256", "trainer.precision=32-true"),
        ("llm.width=256", "trainer=deepspeed_zero2", "trainer.accelerator=cpu"),
    ],
)
def test_small_ones_and_what_was_told_stay(
    words: tuple[str, ...], make_spec: Make, measured: list[tuple[int, int]]
) -> None:
    spec = make_spec(*words)
    assert settle_precision(spec) == spec
    assert measured == []


def test_a_model_that_cannot_be_built_without_memory_stays(
    make_spec: Make, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("needs its weights")

    monkeypatch.setattr(precision, "blank_llm", fails)
    spec = make_spec("llm.width=256")
    assert settle_precision(spec) == spec


def test_frozen_parts_are_held_in_half_precision_where_the_cpu_has_it(
    make_spec: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinevl.training import prepare

    spec = make_spec("trainer.precision=bf16-mixed", "trainer.accelerator=cpu")
    for able, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(prepare, "computes_in_bfloat16", lambda device, able=able: able)
        assert held_of(spec).auto == expected
