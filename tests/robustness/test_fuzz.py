"""Some of the cases of ``make fuzz``, in process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from fuzz_cases import cases
from fuzz_run import run_case
from small_study import make_study

SEED = 1


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "study"
    folder.mkdir()
    make_study(folder)
    return folder


def test_bad_inputs_end_in_clear_lines(study: Path, tmp_path: Path) -> None:
    ends = Counter[str]()
    for case in cases(40, seed=SEED):
        end = run_case(case, study=study, work=tmp_path, seed=SEED, process=False)
        assert end in ("accepted", "refused"), f"case {case.number}, {case.what}: {end}"
        ends[end] += 1
    assert ends["refused"] > 20
