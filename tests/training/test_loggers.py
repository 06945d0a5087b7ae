"""Loggers that cannot start as asked: refused, or offline, before a training begins."""

from __future__ import annotations

import http.server
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spinevl.config.compose import compose
from spinevl.config.options import LoggerOptions, TensorBoardOptions, WandbOptions
from spinevl.config.plain import plain
from spinevl.schema.errors import UserError
from spinevl.training.loggers import check_loggers, logged, logger_run, make_loggers
from spinevl.training.private import Names
from spinevl.training.wandb_run import end_run, start_run


@pytest.fixture
def no_wandb_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    end_run()
    return tmp_path


def loggers_of(
    options: LoggerOptions, folder: Path, *, told: Any = None, earlier: Any = None
) -> list[Any]:
    return make_loggers(
        options, out=folder, hyperparameters=told or {}, cache=lambda: folder, earlier=earlier
    )


def test_csv_is_no_lightning_logger(tmp_path: Path) -> None:
    assert loggers_of(LoggerOptions(), tmp_path) == []


def test_tensorboard_writes_into_the_jobs_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for name in (None, "mine"):
        options = LoggerOptions(tensorboard=TensorBoardOptions(name=name))
        (logger,) = loggers_of(options, tmp_path, told={"seed": 0, "a": {"b": [1]}})
        assert Path(logger.log_dir) == tmp_path / "tensorboard" / (name or "")


def test_wandb_without_a_key_or_a_network_is_offline_and_says_so(
    no_wandb_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    online = LoggerOptions(wandb=WandbOptions())
    note = check_loggers(online)
    assert note is not None
    assert all(word in note for word in ("logger=wandb", "WANDB_API_KEY", "offline", "wandb sync"))
    assert check_loggers(LoggerOptions(wandb=WandbOptions(offline=True))) is None

    with socket.socket() as free:  # a port at which nothing answers
        free.bind(("127.0.0.1", 0))
        silent = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("WANDB_BASE_URL", silent)
    (no_wandb_key / ".netrc").write_text("machine 127.0.0.1 login user password key\n")
    note = check_loggers(online)
    assert note is not None
    assert silent in note
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert check_loggers(online) is None


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
        assert check_loggers(LoggerOptions(wandb=WandbOptions())) is None
    # it is asked once a job, and again by the next one
    assert check_loggers(LoggerOptions(wandb=WandbOptions())) is None
    end_run()
    assert check_loggers(LoggerOptions(wandb=WandbOptions())) is not None


def test_what_wandb_refuses_is_logged_offline(
    no_wandb_key: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = pytest.importorskip("wandb.errors")
    asked = []

    def start(*_: object, offline: bool) -> str:
        asked.append(offline)
        if not offline:
            raise errors.AuthenticationError("the key\nis unknown")
        return "run"

    monkeypatch.setattr("spinevl.training.wandb_run._why_offline", lambda options: None)
    monkeypatch.setattr("spinevl.training.wandb_run._start", start)
    names = Names(None)
    assert start_run(WandbOptions(), out=no_wandb_key, config={}, names=names) == "run"
    assert asked == [False, True]
    assert "the key is unknown; the run is logged offline" in caplog.text


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'spinevl\[tensorboard\]'"):
        check_loggers(LoggerOptions(tensorboard=TensorBoardOptions()))


def test_a_training_that_goes_on_keeps_the_run_of_wandb(
    no_wandb_key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = LoggerOptions(wandb=WandbOptions(offline=True))
    try:
        first = loggers_of(options, tmp_path)
        kept = logger_run(first)
        assert set(kept) == {"wandb"}
        end_run()
        later = loggers_of(options, tmp_path, earlier={"step": 5, **kept})
        assert logger_run(later) == kept
    finally:
        end_run()
    assert logger_run([]) == {}


def test_tensorboard_forgets_what_came_after_the_state(tmp_path: Path) -> None:
    """What was logged after the state is logged again, and is shown once."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = LoggerOptions(tensorboard=TensorBoardOptions())
    (first,) = loggers_of(options, tmp_path)
    for step in (1, 2, 3):
        first.log_metrics({"loss": float(step)}, step=step)
    first.finalize("failed")
    (later,) = loggers_of(options, tmp_path, earlier={"step": 2})
    for step in (3, 4):
        later.log_metrics({"loss": float(step)}, step=step)
    later.finalize("success")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [one.step for one in events.Scalars("loss")] == [1, 2, 3, 4]


def test_several_loggers_take_the_same_values(no_wandb_key: Path, read_run: Any) -> None:
    pytest.importorskip("wandb")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = LoggerOptions(
        tensorboard=TensorBoardOptions(), wandb=WandbOptions(offline=True, name="mine")
    )
    told = {"seed": 3, "data": {"labels": "/secret/labels.json"}, "optim": {"lr": 0.5}}
    with logged():
        for logger in loggers_of(options, no_wandb_key, told=told):
            logger.log_metrics({"loss": 0.25}, step=7)
            logger.finalize("success")
    run = read_run(no_wandb_key)
    assert run.history == [{"loss": 0.25, "trainer/global_step": 7}]
    assert run.config["seed"] == 3
    assert run.config["data"]["labels"] != "/secret/labels.json"
    assert "secret" not in run.file.read_bytes().decode("utf-8", "ignore")
    events = accumulator.EventAccumulator(str(no_wandb_key / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]  # no hp_metric
    data = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optim/lr" in data


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (UserError("x"), 1), (KeyboardInterrupt(), 255)]
)
def test_the_run_of_a_failed_job_ends_as_failed(
    no_wandb_key: Path, read_run: Any, error: BaseException | None, code: int
) -> None:
    pytest.importorskip("wandb")
    with suppress(UserError, KeyboardInterrupt), logged():
        loggers_of(LoggerOptions(wandb=WandbOptions(offline=True)), no_wandb_key)
        if error:
            raise error
    assert read_run(no_wandb_key).exit_code == code


def test_a_run_says_what_it_trains(no_wandb_key: Path, read_run: Any) -> None:
    pytest.importorskip("wandb")
    config = plain(compose("run", ["task=[qd]", "sag_image=[5,6]", "split=kfold", "split.fold=2"]))
    own = WandbOptions(offline=True, name="a b", group="swept", job_type="run", tags=["mine"])
    with logged():
        loggers_of(LoggerOptions(wandb=own), no_wandb_key, told=config)
    run = read_run(no_wandb_key)
    assert (run.name, run.group, run.job_type) == ("a b", "swept", "run")
    told = ["task=qd", "sag_image=5,6", "encoder=TinyEncoder", "connector=MLPConnector"]
    told += ["llm=TinyLLM", "tuning.llm=full", "fold=2", "seed=0", "mine"]
    assert set(told) <= set(run.tags)
