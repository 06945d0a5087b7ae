"""The verb: which checkpoint it asks, and what it refuses before it listens."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path

import pytest

from spinevl.cli.main import main


def test_without_a_checkpoint_it_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["playground"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "spinevl run experiment=demo hydra.run.dir=outputs/demo" in line
    assert not any(one.is_file() for one in tmp_path.rglob("*"))
    (tmp_path / "outputs/demo/checkpoint").mkdir(parents=True, exist_ok=True)
    assert main(["playground"]) == 1  # it is there, and is none
    told = capsys.readouterr()
    assert "asking the demo's, outputs/demo/checkpoint" in told.out
    assert "outputs/demo/checkpoint" in told.err


def test_limits_are_checked_as_other_keys_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["playground", "limits.upload_mb=0", "port=70000", "limits.waiting=-1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(any(key in line for line in lines) for key in ("upload_mb", "port", "waiting"))


@pytest.mark.parametrize("words", [["-m"], ["--multirun"], ["--multi"], ["hydra.mode=MULTIRUN"]])
def test_it_is_no_job_of_a_sweep(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for order in (["port=1,2", *words], [*words, "port=1,2"]):
        assert main(["playground", *order]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "playground -m" in line
    assert list(tmp_path.iterdir()) == []


def test_what_is_logged_goes_to_the_terminal_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(*args: object, **kwargs: object) -> None:
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spinevl.stages.playground.main", warn)
    assert main(["playground"]) == 0
    assert capsys.readouterr().err == "Invalid HTTP request\n"
    assert not any(one.is_file() for one in tmp_path.rglob("*"))


def test_a_port_that_is_taken_is_told() -> None:
    from spinevl.playground.serve import _listening
    from spinevl.schema.errors import UserError

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"port={port}"),
            _listening("127.0.0.1", port),
        ):
            pass


def test_an_address_of_another_machine_is_not_answered_with_another_port() -> None:
    from spinevl.playground.serve import _listening
    from spinevl.schema.errors import UserError

    with (
        pytest.raises(UserError, match=r"an address of this machine.*host=127\.0\.0\.1") as told,
        _listening("192.0.2.1", 7860),
    ):
        pass
    assert "another port" not in str(told.value)


def test_without_gradio_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinevl.config.options.playground import LimitOptions
    from spinevl.playground.page import _require_gradio
    from spinevl.playground.uploads import Uploads
    from spinevl.schema.errors import UserError

    for name in (
        "ANALYTICS_ENABLED",
        "ANALYTICS_MAX_EVENTS",
        "ANALYTICS_CACHE_FREQUENCY",
        "RUN_HISTORY",
        "TEMP_DIR",
    ):
        monkeypatch.setenv(f"GRADIO_{name}", "")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "")
    monkeypatch.setitem(sys.modules, "gradio", None)
    with (
        Uploads(LimitOptions(), parent=tmp_path) as uploads,
        pytest.raises(UserError, match=r"pip install 'spinevl\[playground\]'"),
    ):
        _require_gradio(uploads)
