"""What is read as a state, and what is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from spinevl.schema.errors import UserError
from spinevl.training.state_file import StateFile


class Harmful:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


def test_a_state_that_is_something_else_is_refused_and_runs_no_code(tmp_path: Path) -> None:
    file, made = tmp_path / "state", tmp_path / "made"
    StateFile().save_checkpoint({"state_dict": {"weight": torch.ones(2)}}, file)
    assert StateFile().load_checkpoint(file)["state_dict"]["weight"].tolist() == [1, 1]
    torch.save({"state_dict": Harmful(made)}, tmp_path / "torch")
    (tmp_path / "pickle").write_bytes(pickle.dumps(Harmful(made)))
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-50])
    (tmp_path / "empty").write_bytes(b"")
    for name in ("torch", "pickle", "cut", "empty"):
        with pytest.raises(UserError, match=rf"{name}: expected the state .*resume=never"):
            StateFile().load_checkpoint(tmp_path / name)
    assert not made.exists()
