"""A training stops at the first number that is not finite, and leaves no such weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from spinevl.config.compose import compose
from spinevl.config.options import AugmentOptions, OptimOptions
from spinevl.config.plain import plain
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.schema.errors import UserError
from spinevl.training.callbacks import BestCheckpoint
from spinevl.training.divergence import diverged, require_finite
from spinevl.training.fit import fit
from spinevl.training.module import TrainingModule
from spinevl.training.spec import TrainSpec
from spinevl.training.stage import Stage

TINY = [
    *("data.n_train=4", "data.n_dev=2", "data.n_test=1", "task=[qd]"),
    *("trainer.max_epochs=3", "trainer.batch_patients=1", "trainer.progress_bar=false"),
    *("encoder.widths=[8,8,16]", "encoder.dim=16", "llm.width=32"),
]


def spec(folder: Path, *overrides: str) -> TrainSpec:
    return TrainSpec.from_config(
        plain(compose("train", [*TINY, f"cache_dir={folder}/cache", *overrides]))
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optim.weight_decay=1e30", "warmup=none"], ("step 2", "loss/answer", "llm")),
        (["optim.weight_decay=1e30"], ("step 2", "loss/auxiliary", "heads")),
        (["optim.weight_decay=1e30", "trainer.accumulate=4"], ("step 2", "loss/auxiliary")),
        # the one step that there is spoils the weights, and dev is scored with them
        (
            ["optim.weight_decay=1e38", "warmup=none", "trainer.batch_patients=4"],
            ("step 1", "dev"),
        ),
    ],
)
def test_the_step_and_the_part_are_named_and_no_checkpoint_is_left(
    tmp_path: Path, overrides: list[str], said: tuple[str, ...]
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError) as caught:
        fit(spec(tmp_path, *overrides), tmp_path / "out")
    (problem,) = caught.value.problems
    for part in said:
        assert part in problem
    assert not (tmp_path / "out/checkpoint").exists()
    assert not (tmp_path / "out/train.json").exists()
    csv = tmp_path / "out/metrics.csv"
    assert "nan" not in csv.read_text()


def test_what_was_kept_before_a_training_diverged_stays_and_is_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The images of the second epoch are NaN, as no reader would let them through."""
    seen = []
    forward = TinyEncoder.forward

    def late(self: TinyEncoder, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        features = forward(self, pixels)
        return features * math.nan if self.training and len(seen) > 6 else features

    monkeypatch.setattr(TinyEncoder, "forward", late)
    (tmp_path / "out").mkdir()
    caplog.set_level("INFO")
    options = ["warmup=none", "augment=none"]
    with pytest.raises(UserError, match="loss/answer is nan"):
        fit(spec(tmp_path, *options), tmp_path / "out")
    from spinevl.checkpoints.load import load_checkpoint

    load_checkpoint(tmp_path / "out/checkpoint")  # refuses what is not finite
    assert "weights of step 4" in caplog.text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_dev_score_that_is_not_finite_is_never_the_best(value: float) -> None:
    saved = []
    best = BestCheckpoint(lambda *_: value, lambda *_: saved.append(1))
    module: Any = SimpleNamespace(parts=dict, step=12, log=lambda *_, **__: None)
    trainer: Any = SimpleNamespace()
    with pytest.raises(UserError, match=r"step 12.*dev/score"):
        best.on_validation_epoch_end(trainer, module)
    assert best.score is None
    assert not saved


def test_the_last_weights_are_not_kept_where_they_are_not_finite() -> None:
    saved = []
    best = BestCheckpoint(lambda *_: 1.0, lambda *_: saved.append(1))
    llm = nn.Linear(2, 2)
    with torch.no_grad():
        llm.bias[1] = math.inf
    module: Any = SimpleNamespace(parts=lambda: {"encoder": nn.Linear(1, 1), "llm": llm}, step=3)
    with pytest.raises(UserError, match=r"step 3.*weights of llm not finite"):
        best.on_train_end(SimpleNamespace(), module)  # type: ignore[arg-type]
    assert not saved


def test_gradients_are_named_where_the_weights_are_finite() -> None:
    encoder, llm = nn.Linear(2, 2), nn.Linear(2, 2)
    (llm(torch.full((1, 2), math.inf)).sum() + encoder(torch.ones(1, 2)).sum()).backward()
    told = str(diverged("grad_norm is nan", step=5, parts={"encoder": encoder, "llm": llm}))
    assert "gradients of llm not finite" in told
    assert "encoder" not in told
    require_finite({"loss": 1e30}, step=1, parts={})


class Scaler:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def get_scale(self) -> float:
        return self.scale


@pytest.mark.parametrize(("scale", "stops"), [(65536.0, False), (1.0, True), (None, True)])
def test_overflowing_half_precision_gradients_are_the_scalers_until_it_can_do_no_more(
    scale: float | None, stops: bool
) -> None:
    part = nn.Linear(1, 1, bias=False)
    module = TrainingModule(
        part,  # type: ignore[arg-type]
        None,
        auxiliary_weight=1.0,
        augment=AugmentOptions(),
        optim=OptimOptions(),
        seed=0,
    )
    module.begin(Stage(answers=True, first_epoch=0, epochs=1, epoch_steps=5, total_epochs=1))
    plugin = SimpleNamespace(scaler=None if scale is None else Scaler(scale))
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=None,
        precision_plugin=plugin,
        accumulate_grad_batches=1,
        global_step=0,
        current_epoch=0,
    )
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    optimizer = torch.optim.SGD([{"params": part.parameters(), "name": "llm", "lr": 0.1}])
    part.weight.grad = torch.full((1, 1), math.inf)
    module._losses = [{"loss": torch.tensor(2.0)}]
    if stops:
        with pytest.raises(UserError, match="grad_norm is inf"):
            module.configure_gradient_clipping(optimizer, 1.0)
    else:
        module.configure_gradient_clipping(optimizer, 1.0)
        assert module.step_values == {"loss": 2.0, "lr/llm": 0.1}
        # a loss is not the scaler's
        module._losses = [{"loss": torch.tensor(math.nan)}]
        with pytest.raises(UserError, match="loss is nan"):
            module.configure_gradient_clipping(optimizer, 1.0)


def test_train_json_and_metrics_hold_finite_numbers(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fit(spec(tmp_path, "trainer.max_epochs=1"), tmp_path / "out")

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    json.loads((tmp_path / "out/train.json").read_text(), parse_constant=refuse)
