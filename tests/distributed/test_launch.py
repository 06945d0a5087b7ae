"""Processes started through torchrun: what they are told, what they tell, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from spinevl.distributed.launch import FOLDER, check_nodes, environment, launch
from spinevl.io.process import children, this_process
from spinevl.schema.errors import UserError

WORK = """
import json, os, signal, sys, time
from pathlib import Path
from spinevl.schema.errors import UserError

def work(words):
    out, kind = Path(words[0]), words[1]
    rank = int(os.environ["RANK"])
    print(f"line of {rank}", flush=True)
    told = {name: os.environ[name] for name in ("WORLD_SIZE", "LOCAL_RANK")}
    (out / f"told-{rank}.json").write_text(json.dumps({**told, "pid": os.getpid()}))
    if kind == "refuse" and rank == 1:
        raise UserError(["labels.json: one", "labels.json: two"])
    if kind == "full" and rank == 1:
        raise OSError(28, os.strerror(28), "/there/file")
    if kind == "crash" and rank == 1:
        raise RuntimeError("a fault of ours")
    if kind == "killed" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind in ("refuse", "full", "crash", "killed"):
        time.sleep(60)
    if kind == "wait":
        def note(number, frame):
            (out / f"signal-{number}-{rank}").touch()
            if number == signal.SIGTERM:
                sys.exit(0)
        signal.signal(signal.SIGTERM, note)
        signal.signal(signal.SIGUSR1, note)
        (out / f"ready-{rank}").touch()
        time.sleep(60)
"""
PARENT = """
import sys
from pathlib import Path
from spinevl.distributed.launch import launch
out = Path(sys.argv[1])
try:
    launch("my_work", [str(out), "wait"], out=out, processes=2)
except KeyboardInterrupt:
    sys.exit(77)
"""


@pytest.fixture(autouse=True)
def _worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of work, and no process that stays behind."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    yield
    for process in told(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(process["pid"], signal.SIGKILL)


def told(out: Path) -> list[dict[str, int]]:
    return [json.loads(file.read_text() or "{}") for file in sorted(out.glob("told-*.json"))]


def gone(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    return True


def eventually(what: object, seconds: float = 60) -> bool:
    """Whether ``what()`` becomes true in time."""
    assert callable(what)
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(what())


def test_an_environment_has_nothing_of_another_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINEVL_CORES", "1")
    foreign = "MASTER_ADDR MASTER_PORT RANK LOCAL_RANK NODE_RANK GROUP_RANK ROLE_RANK WORLD_SIZE"
    foreign += " LOCAL_WORLD_SIZE TORCHELASTIC_RUN_ID PL_GLOBAL_SEED"
    kept = {"HOME": "/me", "SLURM_JOB_ID": "7", "MY_RANK": "3", "OMP_NUM_THREADS": "5"}
    monkeypatch.chdir(tmp_path)  # where this process looks for no module
    found = environment({**dict.fromkeys(foreign.split(), "1"), **kept}, 2)
    ours = {"SPINEVL_CORES": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    assert found == {**kept, **ours, "PYTHONSAFEPATH": "1"}
    monkeypatch.syspath_prepend(tmp_path)
    assert environment(kept, 2) == {**kept, **ours}


def test_several_nodes_need_a_slurm_job_of_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    check_nodes(1)
    with pytest.raises(UserError, match=r"trainer\.num_nodes=2.*no SLURM job.*--nodes=2"):
        check_nodes(2)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    with pytest.raises(UserError, match=r"trainer\.num_nodes=3.*a SLURM job of 2"):
        check_nodes(3)


def test_the_children_of_a_process_are_found() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in children(this_process().pid)
        child.kill()
        child.wait()
        assert child.pid not in children(this_process().pid)


@pytest.mark.distributed
def test_workers_know_each_other_and_the_first_is_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "7")
    launch("my_work", [str(tmp_path), "end"], out=tmp_path, processes=2)
    assert [(one["WORLD_SIZE"], one["LOCAL_RANK"]) for one in told(tmp_path)] == [
        ("2", "0"),
        ("2", "1"),
    ]
    assert capsys.readouterr().err == "line of 0\n"
    assert (tmp_path / FOLDER / "0.log").read_text() == "line of 0\n"
    assert (tmp_path / FOLDER / "1.log").read_text() == "line of 1\n"


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("refuse", ["labels.json: one", "labels.json: two"]),
        ("full", ["/there/file: No space left on device; "]),
        ("crash", ["worker 1 of 2 ended with exit code 1 (RuntimeError: a fault of ours); "]),
        ("killed", ["worker 1 of 2 ended through SIGKILL, "]),
    ],
)
def test_a_failure_of_one_worker_ends_all_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, expected: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        launch("my_work", [str(tmp_path), kind], out=tmp_path, processes=2)
    problems = caught.value.problems
    assert len(problems) == len(expected)
    assert all(one.startswith(begin) for one, begin in zip(problems, expected, strict=True))
    if kind in ("crash", "killed"):
        assert str(tmp_path / FOLDER / "1.log") in problems[0]
    assert ("Traceback" in capsys.readouterr().err) == (kind == "crash")
    assert ("Traceback" in (tmp_path / FOLDER / "1.log").read_text()) == (kind != "killed")
    assert all(gone(one["pid"]) for one in told(tmp_path))


@pytest.mark.distributed
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_ends_the_parent_ends_every_worker(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        # a shell starts its background jobs with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    ready = [tmp_path / f"ready-{rank}" for rank in (0, 1)]
    assert eventually(lambda: all(file.exists() for file in ready))
    workers = [one["pid"] for one in told(tmp_path)]
    parent.send_signal(signal.SIGUSR1)
    heard = [tmp_path / f"signal-{int(signal.SIGUSR1)}-{rank}" for rank in (0, 1)]
    assert eventually(lambda: all(file.exists() for file in heard))
    assert parent.poll() is None
    parent.send_signal(number)
    code = parent.wait(60)
    assert eventually(lambda: all(map(gone, workers)), 20)
    if number != signal.SIGKILL:  # the workers were told first
        assert code == 77
        assert all((tmp_path / f"signal-{int(signal.SIGTERM)}-{r}").exists() for r in (0, 1))


@pytest.mark.distributed
def test_an_agent_that_starts_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_EXEC", "/no/python")
    with pytest.raises(UserError, match=rf"exit code 1.*{FOLDER}/agent-0\.log"):
        launch("my_work", [str(tmp_path), "end"], out=tmp_path, processes=2)


@pytest.mark.distributed
def test_nodes_are_started_through_srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two agents on this machine, as an srun of our own starts them."""
    srun = tmp_path / "code" / "srun"
    srun.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nwhile [ "${{1#-}}" != "$1" ]; do shift; done\n'
        "exec 3<&0\n"
        'SLURM_PROCID=0 "$@" <&3 & first=$!\nSLURM_PROCID=1 "$@" <&3 & second=$!\n'
        "wait $first && wait $second\n"
    )
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    launch("my_work", [str(tmp_path), "end"], out=tmp_path, processes=1, nodes=2)
    assert [(one["WORLD_SIZE"], one["LOCAL_RANK"]) for one in told(tmp_path)] == [
        ("2", "0"),
        ("2", "0"),
    ]
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1" in (tmp_path / "asked").read_text()
