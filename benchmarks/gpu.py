"""``python -m benchmarks.gpu``: questions a second and model FLOP utilisation on a GPU.

Model FLOP utilisation (Chowdhery et al. 2022, arXiv 2204.02311) is what the model needs, padding
and repetition not counted, over what the device's matrix products could do in that time; their rate
is measured in the same run, in the same type. The weights are random: an LLM of 0.8 B parameters,
576 tokens an image, in bfloat16. Writes ``gpu.json`` and ``gpu.md``.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import flops, subject
from benchmarks.measure import QUESTIONS, decode
from spinevl.config.options import Attention, Compile, Packing
from spinevl.data.examples import grouped
from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator, Group
from spinevl.models.recompute import recompute_layers
from spinevl.models.vlm import VLM

SHAPE = {"width": 1536, "layers": 28, "image_size": 336, "patch": 14}
WARM_UP = 6
"""Steps that are not counted: each of two batches is compiled, recorded and replayed."""


@dataclass(frozen=True)
class Way:
    """One configuration that is measured.

    Attributes:
        learn: train adapters on all linear layers, a patient a step; otherwise score options.
        attention, packing: see Collator.
        compile: the LLM, with CUDA graphs or without.
        recompute: compute layers again in the backward pass.
        plain_layers: as transformers and peft compute them.
    """

    learn: bool
    attention: Attention = Attention.blocks
    packing: Packing = Packing.tree
    compile: Compile = Compile.none
    recompute: bool = False
    plain_layers: bool = False


VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    " without sharing": {"packing": Packing.plain},
    " plain layers": {"plain_layers": True},
    " flex": {"attention": Attention.flex},
    " compiled": {"compile": Compile.default},
    " flex compiled": {"attention": Attention.flex, "compile": Compile.default},
}
GRAPHS = Way(learn=False, attention=Attention.flex, compile=Compile.cuda_graphs)
WAYS = {
    **{f"predict{name}": Way(learn=False, **changed) for name, changed in VARIANTS.items()},
    "predict CUDA graphs": GRAPHS,
    **{f"train{name}": Way(learn=True, **changed) for name, changed in VARIANTS.items()},
    "train layers computed again": Way(learn=True, recompute=True),
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
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device=cuda: no GPU is at hand; cpu tries the tiny model of --quick")
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(WAYS):
        parser.error(f"--only: {sorted(unknown)}; expected some of {list(WAYS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    rates = [_matmul_rate(device)]
    rows = {}
    for learn in sorted({WAYS[name].learn for name in chosen}):
        fresh = _model(learn, options)
        for name in chosen:
            if WAYS[name].learn is learn:
                rows[name] = _tried(WAYS[name], fresh, options)
                print(name, json.dumps(rows[name]), flush=True)
                rates.append(_matmul_rate(device))
    rate = statistics.median(rates)
    for row in rows.values():
        if "seconds" in row:
            row["utilisation"] = row["flop"] / row["seconds"] / rate
    found = {"device": _name_of(device), "matmul_gflops": rate / 1e9, "ways": rows}
    (options.out / "gpu.json").write_text(json.dumps(found, indent=2, allow_nan=False))
    (options.out / "gpu.md").write_text(table(found))
    print(table(found))
    failed = [name for name, row in rows.items() if "error" in row]
    if failed and (device.type == "cuda" or len(failed) == len(rows)):  # CPUs cannot do all of it
        sys.exit(f"not measured: {', '.join(failed)}")


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


def _model(learn: bool, options: argparse.Namespace) -> VLM:
    """The model in bfloat16, with adapters on all linear layers where they are trained."""
    with tempfile.TemporaryDirectory() as scratch:
        nodes = subject.parts(Path(scratch), **(subject.SMALL if options.quick else SHAPE))
        for part in ("encoder", "llm"):
            nodes[part]["dtype"] = "bfloat16"
        nodes["tuning"] |= {"connector": "frozen", "llm": "lora" if learn else "frozen"}
        return subject.model(nodes)


def _tried(way: Way, fresh: VLM, options: argparse.Namespace) -> dict[str, Any]:
    """What was measured of a way, or why it was not."""
    try:
        return _measured(way, copy.deepcopy(fresh).to(options.device), options)
    except Exception as error:  # no memory, no kernel, no compiler: of many classes
        first, *_ = [*str(error).strip().splitlines(), ""]
        return {"error": f"{type(error).__name__}: {first}".replace("|", "/")}
    finally:  # compiled code and graphs hold memory
        torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _measured(way: Way, model: VLM, options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    model.compute_plainly(way.plain_layers)
    if way.recompute:
        recompute_layers(model)
    if way.attention == Attention.flex:
        model.llm.check_flex(learn=way.learn)
    if way.compile != Compile.none:
        model.llm.compile(cuda_graphs=way.compile == Compile.cuda_graphs)
    count = 1 if way.learn else options.patients
    examples = subject.patients(options.cache, count=2 * count)
    collate = Collator(
        model.inputs(),
        ImageStore(decode),
        packing=way.packing,
        attention=way.attention,
        learn=way.learn,
    )
    groups = grouped(examples)
    batches = [groups[:count], groups[count:]]
    collated = [collate(one) for one in batches]
    work = _training(model) if way.learn else _scoring(model)
    seconds: list[float] = []
    for number in range(options.rounds + WARM_UP):
        batch = collated[number % 2].to(device)
        if number == WARM_UP and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        start = flops.now(device)
        work(batch)
        seconds.append(flops.now(device) - start)
    return {
        "seconds": statistics.median(seconds[WARM_UP:]),
        "questions": count * QUESTIONS,
        "flop": statistics.mean(_needed(model, one, learn=way.learn) for one in batches),
        "peak": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def _scoring(model: VLM) -> Callable[[Any], object]:
    @torch.inference_mode()
    def score(batch: Any) -> torch.Tensor:
        return model(batch)

    return score


def _training(model: VLM) -> Callable[[Any], object]:
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


def _matmul_rate(device: torch.device) -> float:
    side = 8192 if device.type == "cuda" else 1024
    return flops.matmul_rate(side=side, repeats=8, dtype=torch.bfloat16, device=device)


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(torch.cpu.get_capabilities().get("cpu_name") or device)


if __name__ == "__main__":
    main()
