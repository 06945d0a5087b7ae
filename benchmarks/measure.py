"""The measurements. Paths that are compared alternate, and medians of several rounds are given."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import flops, naive, subject
from spinevl.config.options import PredictOptions
from spinevl.data.examples import grouped
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.features.store import FeatureCache
from spinevl.inference.encode import keep_features
from spinevl.inference.precision import pack_weights
from spinevl.inference.predictor import Predictor
from spinevl.io.image_file import load_image
from spinevl.models.vlm import VLM
from spinevl.schema.example import Example
from spinevl.schema.image_ref import ImageRef

QUESTIONS = 18


def measure(scratch: Path, options: Any) -> dict[str, Any]:
    """All results by name."""
    small = subject.SMALL if options.quick else {}
    nodes = subject.parts(scratch, **small)
    examples = subject.patients(options.cache, count=4)
    results: dict[str, Any] = {"rounds": options.rounds, "threads": torch.get_num_threads()}
    results["predict"] = predict(nodes, examples, scratch, options.rounds)
    say("predict", results["predict"])
    results["train"] = train(nodes, examples, scratch, options.rounds)
    say("train", results["train"])
    results["memory"] = memory(nodes, examples, scratch)
    say("memory", results["memory"])
    results["sweep"] = sweep(nodes, scratch, options.cache)
    say("sweep", results["sweep"])
    results["commands"] = commands(options.cache, scratch, options.rounds)
    say("commands", results["commands"])
    results["growth"] = growth(scratch, options, small)
    return results


def say(name: str, result: Any) -> None:
    """Progress on the terminal."""
    print(name, json.dumps(result), flush=True)


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def decode(image: ImageRef) -> np.ndarray:
    """The pixels of a phantom's image."""
    return load_image(image.path)


def predictor(model: VLM, cache: Path | None) -> Predictor:
    """Ours, with its defaults; decoded images are not kept from run to run."""
    features = None if cache is None else FeatureCache(cache, max_bytes=10**11)
    return Predictor(model, decode, cache=features)


def frozen(nodes: dict[str, Any]) -> VLM:
    """The model to predict with: no adapters."""
    tuning = {**nodes["tuning"], "llm": "frozen", "connector": "frozen"}
    return subject.model({**nodes, "tuning": tuning})


def answering(nodes: dict[str, Any]) -> VLM:
    """The same as ours answers with it: its weights are packed, which the plain loop's are not."""
    model = frozen(nodes)
    pack_weights(model, PredictOptions(), writes=False)
    return model


def predict(
    nodes: dict[str, Any], examples: list[Example], scratch: Path, rounds: int
) -> dict[str, Any]:
    """Seconds a patient of 18 closed questions, and the share of the matmul rate."""
    model, packed = frozen(nodes), answering(nodes)
    n_patients = len(examples) // QUESTIONS
    warm = scratch / "warm"
    predictor(packed, warm).predict(examples)  # fills the cache, and warms everything up
    batch = predictor(model, None).collate(grouped(examples))
    images = len(batch.pixel_values)
    work = flops.decoder(model, batch) + flops.connector(model, images)
    cold_work = work + flops.encoder(model, images)
    names = ("naive 1", "naive 8", "cold", "warm", "warm, one patient")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    shares: dict[str, list[float]] = {"cold": [], "warm": []}
    for number in range(rounds):
        seconds["naive 1"].append(
            timed(lambda: naive.predict(model, examples[:QUESTIONS], batch_size=1))
        )
        seconds["naive 8"].append(
            timed(lambda: naive.predict(model, examples, batch_size=8)) / n_patients
        )
        one = predictor(packed, warm)
        seconds["warm, one patient"].append(
            timed(lambda one=one: one.predict(examples[:QUESTIONS]))
        )
        for name, cache in (("cold", scratch / f"cold{number}"), ("warm", warm)):
            rate = flops.matmul_rate()
            ours = predictor(packed, cache)
            spent = timed(lambda ours=ours: ours.predict(examples))
            seconds[name].append(spent / n_patients)
            after = flops.matmul_rate()
            done = cold_work if name == "cold" else work
            shares[name].append(done / spent / statistics.mean([rate, after]))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds_a_patient": medians,
        "all": seconds,
        "speedup": {
            f"{ours} over {plain}": statistics.median(
                p / o for p, o in zip(seconds[plain], seconds[ours], strict=True)
            )
            for ours in ("cold", "warm")
            for plain in ("naive 1", "naive 8")
        },
        "matmul_share": {name: statistics.median(values) for name, values in shares.items()},
        "matmul_gflops": rate / 1e9,
        "gflop_a_patient": {"cold": cold_work / n_patients / 1e9, "warm": work / n_patients / 1e9},
        "tokens_a_patient": batch.tokens / n_patients,
        "tokens_unshared": batch.sequence_tokens / n_patients,
        "images_a_patient": images / n_patients,
    }


def train(
    nodes: dict[str, Any], examples: list[Example], scratch: Path, rounds: int
) -> dict[str, Any]:
    """Questions a second in training, LoRA on a frozen encoder; one patient an optimizer step."""
    losses: dict[str, list[float]] = {"naive": [], "ours": []}
    seconds: dict[str, list[float]] = {"naive": [], "ours": []}
    shares = []
    groups = grouped(examples)
    naive_step = _naive_step(subject.model(nodes))
    model = subject.model(nodes)
    our_step, batch = _our_step(model, examples, groups, scratch)
    # forward and the activations' backward; the frozen weights have no gradient of their own
    work = 2 * (flops.decoder(model, batch) + flops.connector(model, len(batch.features)))
    for number in range(max(rounds, 2)):
        group = groups[number % len(groups)]
        for name, step in (("naive", naive_step), ("ours", our_step)):
            rate = flops.matmul_rate()
            start = time.perf_counter()
            losses[name].append(step(group))
            seconds[name].append(time.perf_counter() - start)
            if name == "ours":
                shares.append(work / seconds[name][-1] / rate)
    pairs = list(zip(seconds["naive"], seconds["ours"], strict=True))
    return {
        "questions_a_second": {
            name: QUESTIONS / statistics.median(values) for name, values in seconds.items()
        },
        "speedup": statistics.median(plain / ours for plain, ours in pairs),
        "losses": losses,
        "largest_loss_difference": max(
            abs(a - b) for a, b in zip(losses["naive"], losses["ours"], strict=True)
        ),
        "matmul_share": statistics.median(shares),
    }


def _optimizer(model: VLM) -> torch.optim.Optimizer:
    model.train()
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def _naive_step(model: VLM) -> Callable[[Any], float]:
    """A step in padded batches of four questions; the loss a mean over the step's tokens."""
    optimizer = _optimizer(model)
    model.llm.model.set_attn_implementation("sdpa")

    def step(group: list[tuple[int, Example]]) -> float:
        optimizer.zero_grad()
        total, tokens = 0.0, 0
        for start in range(0, len(group), 4):
            loss, count = naive.loss(model, [one for _, one in group[start : start + 4]])
            loss.backward()
            total, tokens = total + loss.item(), tokens + count
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= tokens
        optimizer.step()
        return total / tokens

    return step


def _our_step(
    model: VLM, examples: list[Example], groups: list[Any], scratch: Path
) -> tuple[Callable[[Any], float], Any]:
    optimizer = _optimizer(model)
    model.encoder.eval()
    collate = Collator(model.inputs(), ImageStore(decode), learn=True)
    cache = FeatureCache(scratch / "train", max_bytes=10**11)
    keep_features(model, cache, collate.inputs, [image for one in examples for image in one.images])

    def step(group: Any) -> float:
        optimizer.zero_grad()
        batch = collate([group])
        loss = -model(batch).sum() / len(batch.target_id)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, collate([groups[0]])


def memory(nodes: dict[str, Any], examples: list[Example], scratch: Path) -> dict[str, float]:
    """Peak memory in GB of the same patients, each path in a process of its own."""
    result = {}
    for name in ("naive 1", "naive 8", "cold", "train naive", "train ours"):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            peak = alone.submit(_peak, name, nodes, examples, scratch / f"m{name}")
            result[name] = peak.result() / 1e9
    return result


def _peak(name: str, nodes: Any, examples: list[Example], scratch: Path) -> int:
    torch.set_num_threads(2)
    if name.startswith("naive"):
        naive.predict(frozen(nodes), examples, batch_size=int(name[-1]))
    elif name == "cold":
        predictor(answering(nodes), scratch).predict(examples)
    else:
        model, groups = subject.model(nodes), grouped(examples)
        ours = name.endswith("ours")
        step = _our_step(model, examples, groups, scratch)[0] if ours else _naive_step(model)
        step(groups[0])
    # the high-water mark of this process alone; ru_maxrss would be handed down by the parent
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def sweep(nodes: dict[str, Any], scratch: Path, cache: Path) -> dict[str, int]:
    """Images encoded by the jobs of a sweep over ``sag_image``, one patient."""
    model = frozen(nodes)
    features = FeatureCache(scratch / "sweep", max_bytes=10**11)
    result = {}
    for slices in ((6,), (5, 6, 7), (7, 6)):
        examples = subject.patients(cache, count=1, sag_image=slices)
        table = features.features(
            model.encoder,
            [image for one in examples for image in one.images],
            load=decode,
        )
        assert table is not None
        result[f"sag_image={list(slices)}"] = table.encoded
    return result


def commands(cache: Path, scratch: Path, rounds: int) -> dict[str, float]:
    """Seconds of whole commands: the help page, and a build of 400 patients, 3 separate slices."""
    tasks = "task=[qd,sl,zjppt,zyzg,positioning]"
    build = ["build", "data=phantom", "data.n_train=320", "data.n_dev=80", "data.n_test=1"]
    build += [tasks, "sag_image=[5,6,7]", "sag_type=separate", f"cache_dir={cache}"]
    build += [f"hydra.run.dir={scratch}/build"]

    def run(arguments: list[str]) -> None:
        command = [sys.executable, "-m", "spinevl", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    run(build)  # renders where the cache lacks the cohort
    return {
        "help": statistics.median(timed(lambda: run(["--help"])) for _ in range(rounds)),
        **{
            f"build split={name}": statistics.median(
                timed(lambda name=name: run([*build, f"split={name}"])) for _ in range(rounds)
            )
            for name in ("head", "stratified")
        },
        "build --cfg job (start-up alone)": statistics.median(
            timed(lambda: run([*build, "--cfg", "job"])) for _ in range(rounds)
        ),
    }


def growth(scratch: Path, options: Any, small: dict[str, int]) -> dict[str, Any]:
    """Seconds a patient of ours, features warm: patients, slices, image tokens, LLM width.

    One patient is timed several times for the median; more patients are an average already.
    """
    result: dict[str, dict[str, float]] = {}

    def spent(name: str, nodes: dict[str, Any], examples: list[Example]) -> float:
        model = answering(nodes)
        cache = scratch / "growth"
        predictor(model, cache).predict(examples[:QUESTIONS])
        ours = predictor(model, cache)
        ours.cache.features(  # type: ignore[union-attr]
            model.encoder,
            [image for one in examples for image in one.images],
            load=ours.collate.inputs["image"].images.__getitem__,
        )
        rounds = options.rounds if len(examples) == QUESTIONS else 1
        value = statistics.median(timed(lambda: ours.predict(examples)) for _ in range(rounds))
        value /= len(examples) // QUESTIONS
        print(name, f"{value:.2f} s a patient", flush=True)
        return value

    nodes = subject.parts(scratch, **small)
    counts = (1, 2) if options.quick else (1, 4, 16, 64)
    everybody = subject.patients(options.cache, count=max(counts))
    result["patients"] = {
        str(n): spent(f"{n} patients", nodes, everybody[: n * QUESTIONS]) for n in counts
    }
    result["slices"] = {
        str(len(s)): spent(
            f"slices {s}", nodes, subject.patients(options.cache, count=1, sag_image=s)
        )
        for s in ((6,), (5, 6), (5, 6, 7))
    }
    one = everybody[:QUESTIONS]
    sizes = (
        ((224, 32), (224, 16)) if options.quick else ((224, 32), (224, 16), (384, 24), (336, 14))
    )
    result["image tokens"] = {
        str((size // patch) ** 2): spent(
            f"{size}/{patch}", subject.parts(scratch, image_size=size, patch=patch, **small), one
        )
        for size, patch in sizes
    }
    widths = (192, 384) if options.quick else (192, 384, 768, 1152)
    layers = small.get("layers", 12)
    result["LLM width"] = {
        str(width): spent(f"width {width}", subject.parts(scratch, width=width, layers=layers), one)
        for width in widths
    }
    return result
