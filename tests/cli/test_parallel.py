"""Jobs that run side by side: numbered lines, a share of the cores, processes of their own."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

import pytest

from spinevl.cli.parallel import NumberedLines, side_by_side
from spinevl.io.cores import CORES, available_cores


def test_each_line_begins_with_the_jobs_number() -> None:
    text = io.StringIO()
    stream = NumberedLines(text, 3)
    print("a", 1, file=stream)
    stream.write("half")
    stream.flush()
    stream.write(" line\nbar 1%\rbar 99%\n\nend")
    stream.finish()
    assert text.getvalue() == "#3 a 1\n#3 half line\n#3 bar 99%\n#3 \n#3 end\n"


def test_a_worker_numbers_what_it_prints_and_logs_and_takes_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    methods = []
    LokyProcess = type("LokyProcess", (), {"__module__": "joblib.externals.loky.backend.process"})
    monkeypatch.setattr("multiprocessing.current_process", LokyProcess)
    monkeypatch.setattr("multiprocessing.set_start_method", lambda *how, force: methods.append(how))
    monkeypatch.setattr("spinevl.cli.parallel.available_cores", lambda: 8)
    monkeypatch.setenv(CORES, "8")
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(err)])
    with side_by_side({"n_jobs": 3}, 5):
        assert os.environ[CORES] == "2"
        print("score")
        logging.getLogger("any").warning("careful")
    with suppress(KeyError), side_by_side({"n_jobs": -1}, 6):
        assert os.environ[CORES] == "1"
        raise KeyError
    assert os.environ[CORES] == "8"
    logging.getLogger("any").warning("after")
    assert out.getvalue() == "#5 score\n"
    assert err.getvalue() == "#5 careful\nafter\n"
    assert methods == [(None,), (None,)]


def test_any_other_job_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    method = multiprocessing.get_start_method(allow_none=True)
    with side_by_side({"n_jobs": 2}, 0):
        print("plain")
    assert capsys.readouterr().out == "plain\n"
    assert multiprocessing.get_start_method(allow_none=True) == method


@pytest.mark.parametrize(("told", "cores"), [("1", 1), ("0", 1), ("many", None), ("", None)])
def test_cores_are_bounded(told: str, cores: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CORES, raising=False)
    every = available_cores()
    monkeypatch.setenv(CORES, told)
    assert available_cores() == (cores or every)


def test_a_worker_of_joblib_starts_processes_like_any_other() -> None:
    joblib = pytest.importorskip("joblib")
    from joblib.externals.loky import get_reusable_executor

    def spawned(number: int) -> int:
        with (
            side_by_side({"n_jobs": 2}, number),
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        ):
            return pool.submit(abs, -number).result()

    try:
        assert joblib.Parallel(n_jobs=2)(joblib.delayed(spawned)(n) for n in (1, 2)) == [1, 2]
    finally:
        get_reusable_executor().shutdown()
