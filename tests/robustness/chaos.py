"""Kill commands at random moments and run them again: python tests/robustness/chaos.py --kills 50.

Each command is killed with SIGKILL at a moment drawn within its usual time, then the same command
is run to its end. It must succeed, its results must equal those of a run that was never killed, and
its folder and caches must hold the same files: nothing temporary is left. No process of the killed
command may live on. Prints a table; the exit code is 1 if any of this fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from small_study import COMMANDS, SHORT, copy_study, make_study

PHANTOMS = ["data=phantom", "data.n_train=8", "data.n_dev=4", "data.n_test=4", *SHORT]
FROZEN = ["tuning.encoder=frozen", "augment=none"]
# long enough that most kills fall into the training, often into a save
LONG = [
    *("trainer.max_epochs=40", "trainer.dev_checks=4", "trainer.save_every=1", "augment=shift"),
    *("trainer.batch_patients=1", "trainer.accumulate=2", "warmup=heads", "warmup.fraction=0.3"),
    *("tuning.llm=lora", "tuning.lora.dropout=0.2"),
]
TWO = ["trainer.devices=2"]
JOBS: dict[str, list[str]] = {
    "build": COMMANDS["build"],
    "doctor": COMMANDS["doctor"],
    "evaluate": COMMANDS["evaluate predictions"],
    "export": COMMANDS["export"],
    "predict": COMMANDS["predict"],
    "predict, two devices": [*COMMANDS["predict"], "predict.devices=2", "predict.batch_size=1"],
    "predict talk": COMMANDS["predict talk"],
    "train, frozen encoder": [*COMMANDS["train"], *FROZEN],
    "train, loading processes": [*COMMANDS["train"], "trainer.num_workers=2"],
    "train, saved states": [*COMMANDS["train"], *LONG],
    "train, two devices": [*COMMANDS["train"], *LONG, *TWO],
    "train, ZeRO-2": [*COMMANDS["train"], *LONG, *TWO, "trainer.strategy=deepspeed_zero2"],
    "run, phantoms": ["run", *PHANTOMS],
    "run -m, phantoms": ["run", "-m", *PHANTOMS, "seed=0,1"],
}
# What a job's results are: other files hold times, versions or the job's own paths.
RESULTS = (
    *("*.safetensors", "predictions.jsonl", "answers.json", "conversations.json", "metrics.json"),
    *("*_train.json", "*_dev.json", "*_test.json", "split.json", "*.png", "labels.json"),
)
# Locks stay, logs are written from the start, and cached features are named for their job.
FREE = re.compile(r"(\.lock|\.log|features/.*)$")
GRACE_S = 10.0


@dataclass(frozen=True)
class End:
    """What a finished command left: content by name, and the names of all its files."""

    results: dict[str, str]
    names: frozenset[str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=JOBS, help="jobs to kill")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    names = options.only or list(JOBS)
    rows, failed = [], False
    with tempfile.TemporaryDirectory(prefix="spinevl-chaos-") as folder:
        study = Path(folder) / "study"
        study.mkdir()
        make_study(study)
        for k, name in enumerate(names):
            kills = options.kills // len(names) + (k < options.kills % len(names))
            row, problems = _kill(name, kills, study=study, rng=rng)
            rows.append(row)
            for problem in problems:
                print(problem, file=sys.stderr, flush=True)
            failed |= bool(problems)
    head = ["command", "s", "kills", "ended before", "not equal", "files left", "processes left"]
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    return 1 if failed else 0


def _kill(name: str, kills: int, *, study: Path, rng: random.Random) -> tuple[list[str], list[str]]:
    """A row of the table, and a sentence for each fault."""
    work = study.parent / "work"
    started = time.monotonic()
    code, said = _run(JOBS[name], study, work)
    usual_s = time.monotonic() - started
    if code:
        return [name, f"{usual_s:.1f}", "0", "0", "0", "0", "0"], [f"{name}: exit {code}: {said}"]
    right = _end(work)
    problems: list[str] = []
    faults = {"before": 0, "equal": 0, "files": 0, "processes": 0}
    for k in range(kills):
        mark = f"{os.getpid()}-{name}-{k}"
        for _ in range(5):  # until it is killed before its end
            shutil.rmtree(work)
            after_s = rng.uniform(0.1, 1.0) * usual_s
            ended = _start_and_kill(JOBS[name], study, work, after_s, mark)
            faults["before"] += ended
            if not ended:
                break
        where = f"{name}, killed after {after_s:.2f} s of {usual_s:.2f}"
        if alive := _marked(mark):
            faults["processes"] += 1
            problems.append(f"{where}: still running: {alive}")
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
        code, said = _run(JOBS[name], study, work)
        if code:
            faults["equal"] += 1
            problems.append(f"{where}, then run again: exit {code}: {said}")
            continue
        end = _end(work)
        if end.results != right.results:
            faults["equal"] += 1
            differ = {n for n, _ in end.results.items() ^ right.results.items()}
            problems.append(f"{where}: results differ: {sorted(differ)}")
        if end.names != right.names:
            faults["files"] += 1
            problems.append(f"{where}: other files: {sorted(end.names ^ right.names)}")
    shutil.rmtree(work)
    return [name, f"{usual_s:.1f}", str(kills), *map(str, faults.values())], problems


def _command(words: list[str], study: Path, work: Path) -> tuple[list[str], Path]:
    """The command in a copy of the study, with an output folder and caches of its own."""
    if not work.exists():
        copy_study(study, work)
        shutil.rmtree(work / "cache", ignore_errors=True)  # none where nothing was kept
    where = "hydra.sweep.dir=out" if "-m" in words else "hydra.run.dir=out"
    cache = [] if words[0] in ("evaluate", "export") else ["cache_dir=cache"]
    return [sys.executable, "-m", "spinevl", *words, where, *cache], work


def _environment(mark: str) -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SPINEVL_CHAOS": mark}


def _run(words: list[str], study: Path, work: Path) -> tuple[int, str]:
    command, folder = _command(words, study, work)
    done = subprocess.run(
        command, cwd=folder, env=_environment(""), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr[-500:]


def _start_and_kill(words: list[str], study: Path, work: Path, after_s: float, mark: str) -> bool:
    """Kill the command's own process, not its children. Returns whether it had ended by then."""
    command, folder = _command(words, study, work)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, env=_environment(mark), **quiet)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def _marked(mark: str) -> list[int]:
    """Processes of a command that are alive some seconds after it was killed (Linux)."""
    end = time.monotonic() + GRACE_S
    while alive := [pid for pid in _processes() if f"SPINEVL_CHAOS={mark}" in _variables(pid)]:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return alive


def _processes() -> list[int]:
    return [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]


def _variables(pid: int) -> list[str]:
    try:
        if "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:1]:
            return []  # ended, and not yet waited for
        return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _end(work: Path) -> End:
    files = [
        file
        for top in ("out", "cache")
        for file in sorted((work / top).rglob("*"))
        if file.is_file()
    ]
    results = {
        str(file.relative_to(work)): _digest(file)
        for file in files
        if any(file.match(pattern) for pattern in RESULTS) and not FREE.search(str(file))
    }
    names = {str(file.relative_to(work)) for file in files}
    return End(results, frozenset(name for name in names if not FREE.search(name)))


def _digest(file: Path) -> str:
    content = file.read_bytes()
    if file.name.endswith(("_train.json", "_dev.json", "_test.json", "metrics.json")):
        content = json.dumps(json.loads(content), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
