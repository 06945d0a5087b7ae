"""``python -m benchmarks.gpu``: questions a second and model FLOP utilisation on a GPU.

Model FLOP utilisation (Chowdhery et al. 2022, arXiv 2204.02311) is what the model needs, padding
and repetition not counted, over what the device's matrix products could do in that time; their rate
is measured in the same run, in the same type. Random weights of the shape of a 1.5 B LLM with 576
tokens an image; bfloat16. Writes ``gpu.json`` and ``gpu.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import flops, subject
from benchmarks.measure import QUESTIONS, decode
from spinevl.config.options import Attention, Packing
from spinevl.data.examples import grouped
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator, Group
from spinevl.models.recompute import recompute_layers
from spinevl.models.vlm import VLM

SHAPE = {"width": 1536, "layers": 28, "image_size": 336, "patch": 14}
QUICK = {"width": 192, "layers": 2}


@dataclass(frozen=True)
class Way:
    """One way to compute the same.

    Attributes:
        learn: train adapters on all linear layers, a patient a step; otherwise score options.
        attention, packing: see Collator.
        compile_mode: of torch.compile; None does not compile.
        recompute: compute layers again in the backward pass.
        plain_layers: as transformers and peft compute them.
    """

    learn: bool
    attention: Attention = Attention.blocks
    packing: Packing = Packing.tree
    compile_mode: str | None = None
    recompute: bool = False
    plain_layers: bool = False


SCORES, LEARNS = Way(learn=False), Way(learn=True)
WAYS = {
    "predict": SCORES,
    "predict without sharing": replace(SCORES, packing=Packing.plain),
    "predict plain layers": replace(SCORES, plain_layers=True),
    "predict flex": replace(SCORES, attention=Attention.flex),
    "predict compiled": replace(SCORES, compile_mode="default"),
    "predict CUDA graphs": replace(SCORES, compile_mode="reduce-overhead"),
    "train": LEARNS,
    "train without sharing": replace(LEARNS, packing=Packing.plain),
    "train plain layers": replace(LEARNS, plain_layers=True),
    "train flex": replace(LEARNS, attention=Attention.flex),
    "train compiled": replace(LEARNS, compile_mode="default"),
    "train layers computed again": replace(LEARNS, recompute=True),
}


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="repeats of every measurement")
    parser.add_argument("--device", default="cuda", help="where all is computed")
    parser.add_argument("--patients", type=int, default=8, help="patients of a prediction's batch")
    parser.add_argument("--only", default=",".join(WAYS), help="ways to compute, by name")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench-gpu"))
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/spinevl").expanduser())
    parser.add_argument("--quick", action="store_true", help="a tiny model: is everything there?")
    options = parser.parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device=cuda: no GPU is at hand; cpu tries the tiny model of --quick")
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(WAYS):
        parser.error(f"--only: {sorted(unknown)}; expected some of {list(WAYS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    rates = [_matmul_rate(options.device)]
    rows = {}
    for name in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            rows[name] = _tried(WAYS[name], options, Path(scratch))
        print(name, json.dumps(rows[name]), flush=True)
        rates.append(_matmul_rate(options.device))
    rate = statistics.median(rates)
    for row in rows.values():
        if "seconds" in row:
            row["utilisation"] = row["flop"] / row["seconds"] / rate
    found = {"device": _name_of(options.device), "matmul_gflops": rate / 1e9, "ways": rows}
    (options.out / "gpu.json").write_text(json.dumps(found, indent=2, allow_nan=False))
    (options.out / "gpu.md").write_text(table(found))
    print(table(found))


def table(found: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = [
        f"{found['device']}: {found['matmul_gflops'] / 1e3:.2f} TFLOP/s in bfloat16 products",
        "",
        "| | questions/s | model FLOP utilisation | peak memory, GB | not measured |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in found["ways"].items():
        told = (
            ["", "", "", row["error"]]
            if "error" in row
            else [
                f"{row['questions'] / row['seconds']:.1f}",
                f"{row['utilisation']:.0%}",
                f"{row['peak'] / 1e9:.2f}" if row["peak"] else "",
                "",
            ]
        )
        lines.append(f"| {name} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def _tried(way: Way, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """What was measured of a way, or why it was not."""
    try:
        return _measured(way, options, scratch)
    except (RuntimeError, NotImplementedError) as error:  # no memory, or no kernel
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}


def _measured(way: Way, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    device = torch.device(options.device)
    nodes = subject.parts(scratch, **(QUICK if options.quick else SHAPE))
    for part in ("encoder", "llm"):
        nodes[part]["dtype"] = "bfloat16"
    nodes["tuning"] |= {"connector": "frozen", "llm": "lora" if way.learn else "frozen"}
    model = subject.model(nodes).to(device)
    model.llm.plain_layers = way.plain_layers
    if way.recompute:
        recompute_layers(model)
    if way.compile_mode:
        model.llm.compile(mode=way.compile_mode)
    count = 1 if way.learn else options.patients
    examples = subject.patients(options.cache, count=max(count, 2))
    collate = Collator(
        model.inputs(),
        ImageStore(decode),
        packing=way.packing,
        attention=way.attention,
        learn=way.learn,
    )
    groups = grouped(examples)
    batches = [groups[:count], groups[-count:]]
    work = _training(model, way) if way.learn else _scoring(model)
    seconds: list[float] = []
    for number in range(options.rounds + 2):  # the first two warm up
        batch = collate(batches[number % 2]).to(device)
        if number == 2 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        start = _now(device)
        work(batch)
        seconds.append(_now(device) - start)
    return {
        "seconds": statistics.median(seconds[2:]),
        "questions": count * QUESTIONS,
        "flop": _needed(model, batches[0], learn=way.learn),
        "peak": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def _scoring(model: VLM) -> Callable[[Any], object]:
    @torch.inference_mode()
    def score(batch: Any) -> torch.Tensor:
        return model(batch)

    return score


def _training(model: VLM, way: Way) -> Callable[[Any], object]:
    model.train()
    model.encoder.eval()
    learned = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16):
            loss = -model(batch).mean()
        loss.backward()
        optimizer.step()

    return step


def _needed(model: VLM, groups: Sequence[Group], *, learn: bool) -> float:
    """FLOP of one batch, images encoded; a frozen weight has no gradient of its own."""
    batch = Collator(model.inputs(), ImageStore(decode), learn=learn)(groups)
    images = len(batch.pixel_values)
    read = flops.decoder(model, batch)
    seen = flops.connector(model, images) + flops.encoder(model, images)
    return (2 if learn else 1) * read + seen


def _matmul_rate(device: str) -> float:
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    best = float("inf")
    for _ in range(6):
        start = _now(torch.device(device))
        a @ b
        best = min(best, _now(torch.device(device)) - start)
    return 2 * side**3 / best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _name_of(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return str(torch.cpu.get_capabilities().get("cpu_name") or device)


if __name__ == "__main__":
    main()
