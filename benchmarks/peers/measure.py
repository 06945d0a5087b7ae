"""The sections: closed questions, training, generated answers; each type of number on its own."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks import flops
from benchmarks.peers import material
from benchmarks.peers.environments import Environment, Unavailable, environment, installed
from benchmarks.peers.rounds import Asked, Result, Run, alternate
from benchmarks.peers.worker import Worker
from spinevl.io.memory import give_back_memory

Results = dict[str, Result]
RATE = 1e-4
ON_A_GPU = 16
"""Patients whose questions are asked on a GPU, which answers those of a few at once."""

VLLM_SHARE = 0.3
"""What each vLLM takes of a GPU's memory for itself at once; there are two."""


@dataclass(frozen=True)
class Point:
    """A model whose speed is one point of the growth.

    Attributes:
        name: how the tables call it.
        sizes: see subject.parts.
        patients: whose questions are asked.
        cache_gb: what vLLM may take for keys and values.
        rounds: how often it is measured.
        eager: vLLM does not compile it, which takes minutes and was not faster.
    """

    name: str
    sizes: Mapping[str, int]
    patients: int = 2
    cache_gb: int = 1
    rounds: int = 2
    eager: bool = False


LARGE = {"image_size": 336, "patch": 14}
GROWTH = (
    Point("49 tokens an image", {}),
    Point("196 tokens an image", {"patch": 16}),
    Point("576 tokens an image", LARGE),
    Point("576 tokens, LLM of 2.9 B", {**LARGE, "width": 2304, "layers": 48}, 1, 4, 1, eager=True),
)
QUICK_GROWTH = (Point("tiny", {"width": 192, "layers": 2}, 1),)


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        material: made by ``material.make``.
        cache: of the phantoms.
        envs: environments of the peers.
        pythons: interpreters of peers that are installed elsewhere.
        device: where all compute, ``cpu`` or ``cuda``.
        scratch: features and logs of this run.
        only: the peers that are measured: plain, generate, vllm, trl. Ours always is.
        rounds, threads: see the command line.
        quick: fewer patients, conversations and tokens.
        until: section -> when no further round of it starts, as ``time.monotonic`` tells.
    """

    material: Path
    cache: Path
    envs: Path
    pythons: Mapping[str, Path]
    device: str
    scratch: Path
    only: tuple[str, ...]
    rounds: int
    threads: int
    quick: bool
    until: Callable[[str], float]

    def wants(self, run: Run) -> bool:
        """Whether a run is ours, or of a peer that was asked for."""
        return run.worker.startswith("ours") or run.worker.split()[0] in self.only

    def environment(self, name: str) -> Environment:
        """Where a peer is installed. Raises Unavailable."""
        if name in self.pythons:
            return installed(self.pythons[name])
        if self.device != "cpu":
            raise Unavailable(f"--python {name}=PATH names an interpreter that has it, for CUDA")
        return environment(name, self.envs)


class Rates:
    """The machine's matmul rate in a type, measured between the runs."""

    def __init__(self, dtype: str, device: str = "cpu") -> None:
        self.dtype = getattr(torch, dtype)
        self.device = torch.device(device)
        self.found: list[float] = []

    def __call__(self) -> None:
        side = 2048 if self.device.type == "cpu" else 8192
        rate = flops.matmul_rate(side=side, dtype=self.dtype, device=self.device, repeats=3)
        self.found.append(rate)


def predict(plan: Plan, dtype: str, rates: Rates) -> Results:
    """Seconds a patient of 18 closed questions."""
    some = 1 if plan.quick else 2
    every = material.ASKED if plan.device == "cpu" else ON_A_GPU
    asked = f"--patients={every}"
    runs = [
        Run("plain loop, batch 1", "plain", "plain", {"batch_size": 1, "patients": 1}, 1, rounds=1),
        Run("plain loop, batch 8", "plain", "plain", {"batch_size": 8, "patients": some}, some),
        Run("transformers generate, batch 8", "generate", "choose", {"batch_size": 8}, every),
        Run("vLLM, empty caches", "vllm", "choose", {}, every),
        Run("vLLM, blocks of 32 tokens", "vllm blocks", "choose", {}, every),
        Run("ours, cold", "ours", "choose", {"warm": False}, every),
        Run("ours, warm features", "ours", "choose", {"warm": True}, every),
    ]
    if dtype == "float32":
        runs += [
            Run("ours, scoring=full, cold", "ours full", "choose", {"warm": False}, every),
            Run("ours, default settings, cold", "ours default", "choose", {"warm": False}, every),
        ]
    if plan.device != "cpu":
        runs += [
            Run("ours, FlexAttention, cold", "ours flex", "choose", {"warm": False}, every),
            Run("ours, FlexAttention, warm features", "ours flex", "choose", {"warm": True}, every),
        ]
    kept = plan.material / "trained"
    starts = {
        "plain": lambda: _ours_predict(plan, dtype, kept, "--plain"),
        "generate": lambda: _generate(plan, dtype, kept),
        "vllm": lambda: _vllm(plan, dtype, kept, asked),
        "vllm blocks": lambda: _vllm(plan, dtype, kept, asked, "--block-size=32"),
        "ours": lambda: _ours_predict(plan, dtype, kept, asked),
        "ours flex": lambda: _ours_predict(plan, dtype, kept, asked, "--attention=flex"),
        "ours full": lambda: _ours_predict(plan, dtype, kept, asked, "--scoring=full"),
        "ours default": lambda: _ours_predict(plan, "auto", kept, asked),
    }
    return _alternate(plan, f"predict {dtype}", starts, runs, rates)


def train(plan: Plan, dtype: str, rates: Rates) -> Results:
    """Seconds a question of training steps, LoRA r 16, a patient a step."""
    size = 1 if plan.quick else 2

    def patients(number: int) -> dict[str, object]:
        first = number * size % material.ASKED
        return {"patients": [(first + k) % material.ASKED for k in range(size)]}

    asked = size * 18
    runs = [
        Run("TRL SFTTrainer", "trl", "steps", lambda k: {**patients(k), "rate": RATE}, asked),
        Run("ours plain, encoding", "ours plain", "start", {"rate": RATE}, material.ASKED * 18),
        Run("ours plain", "ours plain", "steps", patients, asked),
        Run("ours tree, encoding", "ours tree", "start", {"rate": RATE}, material.ASKED * 18),
        Run("ours tree", "ours tree", "steps", patients, asked),
    ]
    if plan.device != "cpu":
        runs += [
            Run("ours tree, FlexAttention, encoding", "ours flex", "start", {"rate": RATE}, 72),
            Run("ours tree, FlexAttention", "ours flex", "steps", patients, asked),
        ]
    starts = {  # the first one writes the adapters that the last one reads
        "ours tree": lambda: _ours_train(plan, dtype, "tree"),
        "ours plain": lambda: _ours_train(plan, dtype, "plain"),
        "ours flex": lambda: _ours_train(plan, dtype, "tree", "flex"),
        "trl": lambda: _trl(plan, dtype),
    }
    return _alternate(plan, f"train {dtype}", starts, runs, rates)


def generation(plan: Plan, dtype: str, rates: Rates) -> Results:
    """Seconds of generated answers: closed questions, positioning, conversations."""
    count, new = (8, 16) if plan.quick else (100, 128)
    some = 1 if plan.quick else 2
    short = {"what": "closed", "max_new_tokens": 16}
    box = {"what": "boxes", "max_new_tokens": 48}
    talk = {"what": "conversations", "max_new_tokens": new}
    runs = [
        Run("16 tokens, plain loop", "plain", "plain", {"batch_size": 8, "patients": some}, some),
        Run("16 tokens, ours", "ours", "generate", short, 4),
        Run("16 tokens, vLLM", "vllm", "generate", short, 4),
        Run("positioning, ours", "ours", "generate", box),
        Run("positioning, vLLM", "vllm", "generate", box),
        Run("conversations, ours", "ours", "generate", talk, rounds=1),
        Run("conversations, ours, engine=vllm", "vllm ours", "generate", talk, rounds=1),
        Run("conversations, vLLM", "vllm", "generate", {**talk, "count": count}, rounds=1),
    ]
    kept = plan.material / "random"
    many = ("--generates", f"--conversations={count}")
    starts = {
        "plain": lambda: _ours_predict(plan, dtype, kept, "--plain"),
        "vllm": lambda: _vllm(plan, dtype, kept, "--generates"),
        "ours": lambda: _ours_predict(plan, dtype, kept, *many),
        "vllm ours": lambda: _ours_predict(plan, dtype, kept, *many, vllm=True),
    }
    return _alternate(plan, f"generation {dtype}", starts, runs, rates)


def growth(plan: Plan, dtype: str, rates: Rates) -> Results:
    """Seconds a patient as images have more tokens, and at the size of a common LLM."""
    results: Results = {}
    for point in QUICK_GROWTH if plan.quick else GROWTH:
        kept = plan.scratch / "growth"
        material.make_random(kept, plan.cache, dtype=dtype, **point.sizes)
        gc.collect()  # the model, in which references go round in circles: it may take gigabytes
        give_back_memory()
        asked = {"share": point.patients, "rounds": point.rounds}
        runs = [
            Run(f"{point.name}, vLLM", "vllm blocks", "choose", **asked),
            Run(f"{point.name}, ours cold", "ours", "choose", {"warm": False}, **asked),
            Run(f"{point.name}, ours warm", "ours", "choose", {"warm": True}, **asked),
        ]
        few = f"--patients={point.patients}"
        vllm = ["--block-size=32", "--max-length=2048", few, *["--eager"] * point.eager]
        space = {"VLLM_CPU_KVCACHE_SPACE": str(point.cache_gb)}
        starts = {
            "vllm blocks": partial(_vllm, plan, dtype, kept, *vllm, variables=space),
            "ours": partial(_ours_predict, plan, dtype, kept, few),
        }
        # one round has nothing to alternate, and two large models may not fit in memory together
        turns = [[one] for one in starts] if point.rounds == 1 else [list(starts)]
        for turn in turns:
            some = [run for run in runs if run.worker in turn]
            loaded = {one: starts[one] for one in turn}
            results |= _alternate(plan, f"growth {dtype}", loaded, some, rates)
        shutil.rmtree(kept)
        shutil.rmtree(plan.scratch / _name("ours", kept, dtype, few), ignore_errors=True)
    return results


def _alternate(
    plan: Plan, name: str, starts: Mapping[str, Callable[[], Asked]], runs: list[Run], rates: Rates
) -> Results:
    print(name, flush=True)
    wanted = [run for run in runs if plan.wants(run)]
    names = {run.worker for run in wanted}
    started = {worker: start for worker, start in starts.items() if worker in names}
    until = plan.until(name)
    return alternate(started, wanted, rounds=plan.rounds, until=until, between=rates)


def _module(name: str, python: Path | str = sys.executable) -> list[str]:
    return [str(python), "-m", f"benchmarks.peers.{name}"]


def _worker(
    plan: Plan, name: str, command: list[str], variables: Mapping[str, str] | None = None
) -> Worker:
    """A process with the run's number of threads, and nothing from the network."""
    threads = str(plan.threads)
    told = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    log = plan.scratch / "logs" / f"{name}.log"
    return Worker(command, log=log, environment={**told, **(variables or {})})


def _common(plan: Plan, dtype: str, kept: Path) -> Iterator[str]:
    yield from ("--material", str(kept), "--dtype", dtype, "--threads", str(plan.threads))
    yield from ("--device", plan.device)


def _name(who: str, kept: Path, dtype: str, *more: str) -> str:
    return "-".join([who, kept.name, dtype, *(one.strip("-") for one in more)])


def _ours_predict(plan: Plan, dtype: str, kept: Path, *more: str, vllm: bool = False) -> Worker:
    name = _name("ours-vllm" if vllm else "ours", kept, dtype, *more)
    scratch = plan.scratch / name
    own = ["--cache", str(plan.cache), "--scratch", str(scratch), *more]
    if vllm:
        own += ["--vllm", str(plan.environment("vllm").python)]
    return _worker(plan, name, [*_module("ours_predict"), *_common(plan, dtype, kept), *own])


def _generate(plan: Plan, dtype: str, kept: Path) -> Worker:
    command = [*_module("hf_generate"), *_common(plan, dtype, kept)]
    return _worker(plan, f"generate-{dtype}", command)


def _vllm(
    plan: Plan, dtype: str, kept: Path, *more: str, variables: Mapping[str, str] | None = None
) -> Worker:
    """vLLM as its documentation sets it up; for CPUs threads are bound, and its libraries first."""
    where = plan.environment("vllm")
    command = [*_module("vllm_engine", where.python), "--material", str(kept), "--dtype", dtype]
    if shutil.which("g++") is None:
        command.append("--eager")
    first = [*where.site.glob("vllm/libs/libtcmalloc*.so*")]
    first += where.python.parents[1].glob("lib/libiomp5.so")
    if plan.device != "cpu":
        command += [f"--device={plan.device}", f"--gpu-memory={VLLM_SHARE}", "--max-length=2048"]
    told = {
        "LD_PRELOAD": ":".join(map(str, first)),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CACHE_ROOT": str(plan.envs.absolute() / "vllm-cache"),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    name = _name("vllm", kept, dtype, *more)
    return _worker(plan, name, [*command, *more], {**told, **(variables or {})})


def _adapters(plan: Plan, dtype: str) -> Path:
    return plan.scratch / f"adapters-{dtype}.safetensors"


def _ours_train(plan: Plan, dtype: str, packing: str, attention: str = "blocks") -> Worker:
    name = f"train-{packing}-{attention}-{dtype}"
    first = packing == "tree" and attention == "blocks"
    adapters = _adapters(plan, dtype if first else name)
    own = ["--cache", str(plan.cache), "--scratch", str(plan.scratch / name)]
    own += ["--adapters", str(adapters), "--packing", packing, "--attention", attention]
    command = [*_module("ours_train"), *_common(plan, dtype, plan.material / "trained"), *own]
    return _worker(plan, name, command)


def _trl(plan: Plan, dtype: str) -> Worker:
    where = plan.environment("trl")
    adapters = _adapters(plan, dtype)
    if not adapters.is_file():
        raise Unavailable("ours did not write the adapters that both start from")
    own = ["--scratch", str(plan.scratch / f"trl-{dtype}"), "--adapters", str(adapters)]
    kept = plan.material / "trained"
    command = [*_module("trl_sft", where.python), *_common(plan, dtype, kept), *own]
    return _worker(plan, f"trl-{dtype}", command)
