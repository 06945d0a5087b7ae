"""Loggers that could not start are refused before a training begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from spinevl.config.options import LoggerKind, LoggerOptions
from spinevl.schema.errors import UserError
from spinevl.training.loggers import check_logger, make_logger


@pytest.fixture
def no_wandb_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_csv_is_no_lightning_logger(tmp_path: Path) -> None:
    assert make_logger(LoggerOptions(), out=tmp_path, hyperparameters={}) is False


def test_tensorboard_writes_into_the_jobs_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    options = LoggerOptions(kind=LoggerKind.tensorboard)
    logger = make_logger(options, out=tmp_path, hyperparameters={"seed": 0, "a": {"b": [1]}})
    assert Path(logger.log_dir).is_relative_to(tmp_path / "tensorboard")


def test_wandb_online_needs_a_key(no_wandb_key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    online = LoggerOptions(kind=LoggerKind.wandb)
    with pytest.raises(UserError, match=r"no W&B API key; .*logger.offline=true"):
        check_logger(online)
    check_logger(LoggerOptions(kind=LoggerKind.wandb, offline=True))
    (no_wandb_key / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    check_logger(online)
    (no_wandb_key / ".netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_logger(online)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'spinevl\[tensorboard\]'"):
        check_logger(LoggerOptions(kind=LoggerKind.tensorboard))
