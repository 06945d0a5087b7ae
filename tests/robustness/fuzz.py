"""Feed spinevl bad inputs and count how they end: python tests/robustness/fuzz.py --cases 1000.

Every case must end within 20 seconds in clear lines and exit code 1, or be rightly accepted. Prints
a table of the counts and each case that did not; the exit code is 1 if there is one. ``--only N``
runs one case again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fuzz_cases import cases
from fuzz_run import quiet, run_case
from small_study import make_study


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=50, help="cases run as real processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the cases to run")
    options = parser.parse_args()
    quiet()
    failed: list[str] = []
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="spinevl-fuzz-") as name:
        study, work = Path(name) / "study", Path(name) / "work"
        study.mkdir()
        make_study(study)
        every = max(1, options.cases // max(1, options.processes))
        for case in cases(options.cases, seed=options.seed):
            if options.only and case.number not in options.only:
                continue
            process = options.processes > 0 and case.number % every == 0
            end = run_case(case, study=study, work=work, seed=options.seed, process=process)
            if end not in ("accepted", "refused"):
                failed.append(f"case {case.number}, {case.kind}, {case.what}: {end}")
                print(failed[-1], file=sys.stderr, flush=True)
                end = "failed"
            counts[case.kind, end] += 1
    print(table(counts))
    return 1 if failed else 0


def table(counts: Counter[tuple[str, str]]) -> str:
    """Markdown: a row for each kind of input."""
    ends = ("refused", "accepted", "failed")
    rows = [["input", *ends]] + [
        [kind, *(str(counts[kind, end]) for end in ends)] for kind in sorted({k for k, _ in counts})
    ]
    total = [str(sum(n for (_, e), n in counts.items() if e == end)) for end in ends]
    rows.insert(1, ["---"] * 4)
    rows.append(["all", *total])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
