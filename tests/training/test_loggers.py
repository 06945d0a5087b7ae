"""Loggers that cannot start as asked: refused, or offline, before a training begins."""

from __future__ import annotations

import http.server
import socket
import threading
from pathlib import Path

import pytest

from spinevl.config.options import LoggerKind, LoggerOptions
from spinevl.schema.errors import UserError
from spinevl.training.loggers import check_logger, close_loggers, logger_run, make_logger


@pytest.fixture
def no_wandb_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    close_loggers()
    return tmp_path


def test_csv_is_no_lightning_logger(tmp_path: Path) -> None:
    assert make_logger(LoggerOptions(), out=tmp_path, hyperparameters={}) is False


def test_tensorboard_writes_into_the_jobs_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for name in (None, "mine"):
        options = LoggerOptions(kind=LoggerKind.tensorboard, name=name)
        logger = make_logger(options, out=tmp_path, hyperparameters={"seed": 0, "a": {"b": [1]}})
        assert Path(logger.log_dir) == tmp_path / "tensorboard" / (name or "")


def test_wandb_without_a_key_or_a_network_is_offline_and_says_so(
    no_wandb_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    online = LoggerOptions(kind=LoggerKind.wandb)
    note = check_logger(online)
    assert note is not None
    assert all(word in note for word in ("logger=wandb", "WANDB_API_KEY", "offline", "wandb sync"))
    assert check_logger(LoggerOptions(kind=LoggerKind.wandb, offline=True)) is None

    with socket.socket() as free:  # a port at which nothing answers
        free.bind(("127.0.0.1", 0))
        silent = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("WANDB_BASE_URL", silent)
    (no_wandb_key / ".netrc").write_text("machine 127.0.0.1 login user password key\n")
    note = check_logger(online)
    assert note is not None
    assert silent in note
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert check_logger(online) is None


def test_a_server_that_answers_at_all_is_there(
    no_wandb_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setenv("WANDB_API_KEY", "key")
    pytest.importorskip("wandb")
    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        assert check_logger(LoggerOptions(kind=LoggerKind.wandb)) is None
    # it is asked once a job, and again by the next one
    assert check_logger(LoggerOptions(kind=LoggerKind.wandb)) is None
    close_loggers()
    assert check_logger(LoggerOptions(kind=LoggerKind.wandb)) is not None


def test_what_wandb_refuses_is_logged_offline(
    no_wandb_key: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = pytest.importorskip("wandb.errors")
    asked = []

    def start(*_: object, offline: bool) -> str:
        asked.append(offline)
        if not offline:
            raise errors.AuthenticationError("the key\nis unknown")
        return "logger"

    monkeypatch.setattr("spinevl.training.loggers._why_offline", lambda options: None)
    monkeypatch.setattr("spinevl.training.loggers._wandb_logger", start)
    options = LoggerOptions(kind=LoggerKind.wandb)
    assert make_logger(options, out=no_wandb_key, hyperparameters={}) == "logger"
    assert asked == [False, True]
    assert "the key is unknown; the run is logged offline" in caplog.text


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'spinevl\[tensorboard\]'"):
        check_logger(LoggerOptions(kind=LoggerKind.tensorboard))


def test_a_training_that_goes_on_keeps_the_run_of_wandb(
    no_wandb_key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = LoggerOptions(kind=LoggerKind.wandb, offline=True)
    try:
        first = make_logger(options, out=tmp_path, hyperparameters={})
        kept = logger_run(first)
        assert set(kept) == {"wandb"}
        close_loggers()
        later = make_logger(options, out=tmp_path, hyperparameters={}, earlier={"step": 5, **kept})
        assert logger_run(later) == kept
    finally:
        close_loggers()
    assert logger_run(False) == {}


def test_tensorboard_forgets_what_came_after_the_state(tmp_path: Path) -> None:
    """What was logged after the state is logged again, and is shown once."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = LoggerOptions(kind=LoggerKind.tensorboard)
    first = make_logger(options, out=tmp_path, hyperparameters={})
    for step in (1, 2, 3):
        first.log_metrics({"loss": float(step)}, step=step)
    first.finalize("failed")
    later = make_logger(options, out=tmp_path, hyperparameters={}, earlier={"step": 2})
    for step in (3, 4):
        later.log_metrics({"loss": float(step)}, step=step)
    later.finalize("success")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [one.step for one in events.Scalars("loss")] == [1, 2, 3, 4]
