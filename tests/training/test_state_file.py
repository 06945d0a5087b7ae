"""What is read as a state, and what is refused."""

from __future__ import annotations

import os
import pickle
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spinevl.schema.errors import UserError
from spinevl.training.state_file import StateFile, TornState, require_state


class Harmful:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


COMMON = {
    "epoch": 1,
    "global_step": 2,
    "pytorch-lightning_version": "2.6.0",
    "loops": {},
    "callbacks": {},
    "lr_schedulers": [],
    "random": [{}],
}
WHOLE = {**COMMON, "state_dict": {"weight": torch.ones(2)}, "optimizer_states": []}


def test_a_state_that_is_something_else_is_refused_and_runs_no_code(tmp_path: Path) -> None:
    file, made = tmp_path / "state", tmp_path / "made"
    StateFile().save_checkpoint(WHOLE, file)
    assert StateFile().load_checkpoint(file)["state_dict"]["weight"].tolist() == [1, 1]
    torch.save({**WHOLE, "state_dict": Harmful(made)}, tmp_path / "torch")
    (tmp_path / "pickle").write_bytes(pickle.dumps(Harmful(made)))
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-50])
    (tmp_path / "empty").write_bytes(b"")
    torch.save(torch.ones(2), tmp_path / "tensor")
    for name in ("torch", "pickle", "cut", "empty", "tensor", "none"):
        with pytest.raises(UserError, match=rf"{name}: expected the state .*resume=never"):
            StateFile().load_checkpoint(tmp_path / name)
        with pytest.raises(TornState, match=f"{name}: expected the state"):
            require_state(tmp_path / name, world=1)
    assert not made.exists()


@pytest.mark.parametrize("key", WHOLE)
@pytest.mark.parametrize("value", [None, "other"])
def test_a_state_has_every_key_that_a_training_reads(
    tmp_path: Path, key: str, value: str | None
) -> None:
    require = partial(require_state, tmp_path / "state", world=1)
    torch.save(WHOLE, tmp_path / "state")
    require()
    other = {**WHOLE, key: 1.5} if value else {k: v for k, v in WHOLE.items() if k != key}
    torch.save(other, tmp_path / "state")
    with pytest.raises(TornState, match=f"{tmp_path}/state: .*{key}"):
        require()
    with pytest.raises(UserError, match=f"{tmp_path}/state: .*{key}"):
        StateFile().load_checkpoint(tmp_path / "state")


def test_a_state_of_deepspeed_has_a_share_of_each_process(tmp_path: Path) -> None:
    folder = tmp_path / "state/checkpoint"
    folder.mkdir(parents=True)
    files = {
        "mp_rank_00_model_states.pt": {**COMMON, "module": {}},
        **{
            f"zero_pp_rank_{n}_mp_rank_00_optim_states.pt": {"optimizer_state_dict": {}}
            for n in "01"
        },
    }
    for name, content in files.items():
        torch.save(content, folder / name)
    require_state(tmp_path / "state", world=2)
    for world in (1, 3):
        with pytest.raises(TornState, match=f"{tmp_path}/state: .*{world} processes"):
            require_state(tmp_path / "state", world=world)
    for name, content in files.items():
        torch.save({}, folder / name)
        key = "module" if "module" in content else "optimizer_state_dict"
        with pytest.raises(TornState, match=f"{name}: .*{key}"):
            require_state(tmp_path / "state", world=2)
        (folder / name).unlink()
        with pytest.raises(TornState, match="processes"):
            require_state(tmp_path / "state", world=2)
        torch.save(content, folder / name)


def test_objects_of_deepspeed_are_not_made_to_look_at_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scaler:
        def __init__(self) -> None:
            self.scale = 2

    Scaler.__module__, Scaler.__qualname__ = "deepspeed.scaler", "Scaler"
    monkeypatch.setitem(sys.modules, "deepspeed.scaler", SimpleNamespace(Scaler=Scaler))
    torch.save({**WHOLE, "scaler": Scaler()}, tmp_path / "state")
    monkeypatch.setattr(Scaler, "__setstate__", lambda *_: pytest.fail("made"), raising=False)
    require_state(tmp_path / "state", world=1)
    with pytest.raises(UserError, match="something else"):
        StateFile().load_checkpoint(tmp_path / "state")
