"""Values that no training could start with are refused while the config is composed."""

from __future__ import annotations

import pytest

from spinevl.cli.config_errors import explain
from spinevl.config.compose import compose


def refused(verb: str, overrides: list[str]) -> tuple[str, ...]:
    """The lines with which a verb refuses some overrides."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  Hydra's, OmegaConf's or ours
        compose(verb, overrides)
    return explain(caught.value, verb=verb, arguments=overrides)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.max_epochs=-1", "trainer.max_epochs=-1: expected a whole number, 1 or more"),
        ("trainer.max_epochs=0", "1 or more"),
        ("trainer.max_epochs=1.5", "a whole number"),
        ("trainer.batch_patients=0", "1 or more"),
        ("trainer.dev_checks=0", "1 or more"),
        ("warmup.fraction=2", "warmup.fraction=2.0: expected a finite number, 0 to 0.95"),
        ("optim.schedule=linear", "cosine, constant"),
        ("tuning.encoder=freeze", "frozen, lora, full"),
        ("tuning.connector=lora", "frozen, full"),
        ("trainer.precision=fp16", "bf16-mixed"),
        ("trainer.packing=dense", "tree, plain, off"),
    ],
)
def test_a_value_out_of_range_is_named(override: str, said: str) -> None:
    (line,) = refused("run", [override])
    assert said in line


def test_all_of_them_are_listed_at_once() -> None:
    wrong = ["trainer.max_epochs=0", "optim.schedule=linear", "tuning.llm=half", "seed=-1"]
    assert len(refused("doctor", wrong)) == 4


def test_the_bounds_themselves_are_taken() -> None:
    cfg = compose("run", ["trainer.max_epochs=1", "warmup.fraction=0.95", "trainer.precision=bf16"])
    assert cfg.trainer.max_epochs == 1
