"""Run one case, in this process or in one of its own, and judge how it ended."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz_cases import Case
from small_study import copy_study

LIMIT_S = 20
LINES = 25  # spinevl prints 20 problems and how many more there are
LONGEST = 2000


class TooLong(BaseException):
    """Raised by the alarm; no ``except Exception`` catches it."""


def run_case(case: Case, *, study: Path, work: Path, seed: int, process: bool) -> str:
    """``accepted``, ``refused``, or a sentence that says what is wrong with how it ended."""
    folder = work / f"case-{case.number}"
    copy_study(study, folder)
    rng = random.Random(f"{seed} {case.number}")
    if case.mutation is not None and case.file is not None:
        case.mutation(folder / case.file, rng)
    arguments = [*case.command, "hydra.run.dir=out"]
    if case.command[0] not in ("evaluate", "export"):
        arguments.append(f"cache_dir={study}/cache")
    try:
        code, out, err = (_process if process else _here)(arguments, folder)
        return _judge(case, code, out, err, folder / "out")
    except (TooLong, subprocess.TimeoutExpired):
        return f"took longer than {LIMIT_S} s"
    finally:
        shutil.rmtree(folder)


def _process(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "spinevl", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return done.returncode, done.stdout, done.stderr


def _here(arguments: list[str], folder: Path) -> tuple[int, str, str]:
    from spinevl.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with _time_limit():
                code = main(arguments)
        except Exception:
            traceback.print_exc()
            code = 1
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def _judge(case: Case, code: int, out: str, err: str, folder: Path) -> str:
    if "Traceback" in err + out:
        return "traceback: " + err.strip().splitlines()[-1][:300]
    if code == 0:
        if case.bad:
            return "accepted, and it must be refused"
        wrong = next(_not_finite(folder), None)
        return f"accepted, and {wrong} holds a number that is not finite" if wrong else "accepted"
    if code != 1:
        return f"exit code {code}: {err[-300:]}"
    lines = [line for line in err.splitlines() if line.startswith("spinevl: ")]
    if not 1 <= len(lines) <= LINES or any(len(line) > LONGEST for line in lines):
        return f"{len(lines)} lines, the longest {max(map(len, lines), default=0)}: {err[:300]}"
    if not all(line.isprintable() for line in lines):
        return f"characters that a terminal cannot show: {err[:300]!r}"
    if case.bad is False:
        return f"refused, and it must be accepted: {lines[0][:300]}"
    return "refused"


def _not_finite(folder: Path) -> Iterator[Path]:
    """Files of an accepted job that hold NaN or an infinite number."""

    def refuse(text: str) -> float:
        raise ValueError(text)

    for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
        try:
            if file.suffix == ".json":
                json.loads(file.read_text("utf-8"), parse_constant=refuse)
            elif file.suffix == ".jsonl":
                for line in file.read_text("utf-8").splitlines():
                    json.loads(line, parse_constant=refuse)
            elif file.suffix == ".csv":
                _check_cells(file)
        except ValueError:
            yield file.relative_to(folder)


def _check_cells(file: Path) -> None:
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.reader(stream):
            for cell in row:
                with contextlib.suppress(ValueError):
                    if not math.isfinite(float(cell)):
                        raise ArithmeticError(cell)


def quiet() -> None:
    """No network, one thread: as fast as it gets, and the same everywhere."""
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TQDM_DISABLE="1")
