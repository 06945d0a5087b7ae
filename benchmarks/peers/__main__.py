"""``python -m benchmarks.peers``: ours against vLLM, transformers' generate, and TRL.

Peers are installed into environments of their own, once. Everybody has the same weights, prompts,
types and threads; one computes at a time, in rounds, and medians are given. A peer that cannot be
installed or fails is a line in the table; where ours fails, the exit code is not zero. On a GPU the
model is that of ``benchmarks.gpu``, whose weights are random, so that its choices are near ties;
peers are those that ``--python`` names. Writes ``peers.json``, ``peers.md`` and ``peers.png``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu, subject
from benchmarks.peers import material, measure, picture, table, targets
from benchmarks.peers.environments import PACKAGES, Unavailable, environment

PEERS = ("plain", "generate", "vllm", "trl")
SECTIONS = {
    # name: (what measures it, the share of the run's time at whose end no further round starts)
    "predict": (measure.predict, (0.25, 0.4)),
    "train": (measure.train, (0.53, 0.65)),
    "generation": (measure.generation, (0.8, 0.8)),
    "growth": (measure.growth, (1.0, 1.0)),
}
TYPES = ("float32", "bfloat16")
ONE_TYPE = {"generation": "float32", "growth": "bfloat16"}


def main() -> None:
    """Parse the command line, install, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="repeats of every measurement")
    parser.add_argument("--only", default=",".join(PEERS), help=f"peers, of {','.join(PEERS)}")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="what is measured")
    parser.add_argument("--types", default=",".join(TYPES), help="number types")
    parser.add_argument("--minutes", type=float, default=22.0, help="no round starts after them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PEER=PATH",
        help="an interpreter that has vllm or trl, where it is not to be installed",
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model: is everything there?")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench-peers"))
    parser.add_argument("--envs", type=Path, default=Path(".venv-peers"), metavar="FOLDER")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/spinevl").expanduser())
    options = parser.parse_args()
    for name, known in (("only", PEERS), ("sections", SECTIONS), ("types", TYPES)):
        chosen = tuple(one for one in getattr(options, name).split(",") if one)
        if unknown := set(chosen) - set(known):
            parser.error(f"--{name}: {', '.join(sorted(unknown))}; expected some of {list(known)}")
        setattr(options, name, chosen)
    options.python = dict(one.partition("=")[::2] for one in options.python)
    if unknown := set(options.python) - set(PACKAGES):
        parser.error(f"--python: {sorted(unknown)}; expected some of {sorted(PACKAGES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device=cuda: no GPU is at hand")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        if name in options.only and options.device == "cpu" and name not in options.python:
            _install(name, options.envs)
    sizes = subject.SMALL if options.quick else {}
    with tempfile.TemporaryDirectory() as scratch:
        if options.device == "cpu":
            kept = material.make(options.cache, **sizes)
        else:
            kept = Path(scratch) / "material"
            told = {"dtype": "bfloat16", "patients": measure.ON_A_GPU, **(sizes or gpu.SHAPE)}
            material.make_random(kept / "random", options.cache, **told)
            (kept / "trained").symlink_to("random")
        sections = _measure(options, kept, Path(scratch))
    if broken := _broken(sections):
        sys.exit("\n".join(broken))


def _install(name: str, envs: Path) -> None:
    try:
        environment(name, envs)
    except Unavailable as error:  # said again in the table
        print(f"{name}: {error}", flush=True)


def _broken(sections: dict[str, measure.Results]) -> list[str]:
    """What failed of ours, a line each: it is no peer's fault."""
    return [
        f"{section}: {name}: {result.failed}"
        for section, part in sections.items()
        for name, result in part.items()
        if result.failed is not None and result.there and _is_ours(name, part)
    ]


def _is_ours(name: str, part: measure.Results) -> bool:
    """Whether a run of a section is ours alone to answer for."""
    if "engine=vllm" in name:  # it fails where vLLM does
        return not any("vLLM" in one and result.failed for one, result in part.items())
    return "ours" in name or "plain loop" in name


def _measure(options: argparse.Namespace, kept: Path, scratch: Path) -> dict[str, measure.Results]:
    start = time.monotonic()

    def until(name: str) -> float:
        section, dtype = name.split()
        share = SECTIONS[section][1][TYPES.index(dtype)]
        return start + 60 * options.minutes * share

    plan = measure.Plan(
        kept,
        options.cache,
        options.envs,
        {name: Path(python) for name, python in options.python.items()},
        options.device,
        scratch,
        options.only,
        options.rounds,
        options.threads,
        options.quick,
        until,
    )
    found: dict[str, list[float]] = {dtype: [] for dtype in options.types}
    sections: dict[str, measure.Results] = {}

    def write() -> str:
        told = {"rounds": options.rounds, "threads": options.threads, "quick": options.quick}
        told["minutes"] = round((time.monotonic() - start) / 60, 1)
        return _write(options.out, sections, found, told, scratch)

    try:
        for name in options.sections:
            for dtype in options.types:
                only = ONE_TYPE.get(name, dtype)
                if dtype != (only if only in options.types else options.types[0]):
                    continue
                rates = measure.Rates(dtype, options.device)
                sections[f"{name} {dtype}"] = SECTIONS[name][0](plan, dtype, rates)
                found[dtype] += rates.found
                write()  # what was measured stays, whatever ends the next section
    finally:
        print(write())
    return sections


def _write(
    out: Path,
    sections: dict[str, measure.Results],
    found: dict[str, list[float]],
    told: dict[str, Any],
    scratch: Path,
) -> str:
    rates = {dtype: rate for dtype, one in found.items() if (rate := targets.median_rate(one))}
    versions = {"ours": ", ".join(f"{one} {version(one)}" for one in ("spinevl", "torch"))}
    for part in sections.values():
        for result in part.values():
            if own := result.loaded.get("versions"):
                versions[next(iter(own))] = ", ".join(f"{k} {v}" for k, v in own.items())
    text = table.markdown(sections, rates, versions, told)
    (out / "peers.md").write_text(text)
    picture.draw(sections, out / "peers.png")
    content = {
        **told,
        "versions": versions,
        "matmul_flops": rates,
        "targets": [{**vars(row), "met": row.met} for row in targets.rows(sections, rates)],
        "choices": {name: one.json() for name, one in targets.choices(sections).items()},
        "sections": {
            name: {run: vars(result) for run, result in part.items()}
            for name, part in sections.items()
        },
    }
    (out / "peers.json").write_text(json.dumps(content, indent=2))
    for log in (scratch / "logs").glob("*.log"):
        (out / "logs").mkdir(exist_ok=True)
        (out / "logs" / log.name).write_bytes(log.read_bytes())
    return text


if __name__ == "__main__":
    main()
