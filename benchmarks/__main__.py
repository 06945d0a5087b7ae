"""``python -m benchmarks``: the naive path against ours, and how the cost grows.

Everything is measured in one run, alternating, on two CPU threads in float32 with the same
weights; medians of several rounds. Writes ``bench.json``, ``bench.md`` and ``bench.png``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.measure import measure
from spinevl.io.memory import keep_memory


def main() -> None:
    """Parse the command line, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="repeats of every measurement")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/spinevl").expanduser())
    parser.add_argument("--quick", action="store_true", help="a tiny model: is everything there?")
    options = parser.parse_args()
    keep_memory()  # for both sides, as the command line does
    torch.set_num_threads(2)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        results = measure(Path(scratch), options)
    (options.out / "bench.json").write_text(json.dumps(results, indent=2))
    report.write(results, options.out)


if __name__ == "__main__":
    main()
