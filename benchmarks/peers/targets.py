"""What was measured against what was aimed for."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.peers import material
from benchmarks.peers.agreement import Agreement, agreement
from benchmarks.peers.rounds import Result, ratio

Section = Mapping[str, Result]

VLLM, BLOCKS = "vLLM, empty caches", "vLLM, blocks of 32 tokens"
COLD, WARM = "ours, cold", "ours, warm features"
BEFORE, DEFAULT = "ours, scoring=full, cold", "ours, default settings, cold"
TRL, TREE, PLAIN = "TRL SFTTrainer", "ours tree", "ours plain"
COLD_OVER_VLLM = 1.25
WARM_OVER_VLLM = {"float32": 1.9, "bfloat16": 2.0}
MATMUL_SHARE = {"float32": 0.75, "bfloat16": 0.6}
EPOCH = material.ASKED * 18


@dataclass(frozen=True)
class Row:
    """A ratio with its target.

    Attributes:
        what, against: what is compared.
        found: None where one of them was not measured.
        target: at least this, or at most it.
        most: whether the target is an upper bound.
        unit: behind the numbers.
    """

    what: str
    against: str
    found: float | None
    target: float
    most: bool = False
    unit: str = "x"

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where nothing was measured."""
        if self.found is None:
            return None
        return self.found <= self.target if self.most else self.found >= self.target

    def cells(self) -> tuple[str, ...]:
        """What stands in the table."""
        bound = "at most" if self.most else "at least"
        found = "-" if self.found is None else f"{self.found:.2f}{self.unit}"
        met = {None: "not measured", True: "yes", False: "no"}[self.met]
        return self.what, self.against, found, f"{bound} {self.target:g}{self.unit}", met


def rows(sections: Mapping[str, Section], rates: Mapping[str, float]) -> list[Row]:
    """Every target that the sections say something about.

    Args:
        sections: the results by section, such as ``predict float32``.
        rates: type -> FLOP/s of a matrix product.
    """
    found = list(_predict(sections, rates))
    for dtype in WARM_OVER_VLLM:
        found += _train(dtype, sections.get(f"train {dtype}"))
        found += _generation(dtype, sections.get(f"generation {dtype}"))
    return found


def _predict(sections: Mapping[str, Section], rates: Mapping[str, float]) -> Iterator[Row]:
    for dtype, target in WARM_OVER_VLLM.items():
        if (part := sections.get(f"predict {dtype}")) is None:
            continue
        cold, warm = part.get(COLD), part.get(WARM)
        for name in (VLLM, BLOCKS):
            vllm = part.get(name)
            yield Row(f"predict {dtype}, cold", name, ratio(vllm, cold), COLD_OVER_VLLM)
            yield Row(f"predict {dtype}, warm features", name, ratio(vllm, warm), target)
        for name, result in (("cold", cold), ("warm", warm)):
            share = matmul_share(result, name, rates.get(dtype))
            what = f"predict {dtype}, {name}: share of the matmul rate"
            yield Row(what, f"matrix product in {dtype}", share, MATMUL_SHARE[dtype], unit="")
    whole, half = (sections.get(f"predict {dtype}", {}) for dtype in WARM_OVER_VLLM)
    if (before := whole.get(BEFORE)) is None:
        return
    was = "ours in float32, scoring=full"
    yield Row("predict, default settings, cold", was, ratio(before, whole.get(DEFAULT)), 2.2)
    rise = _over(_rise(half.get(COLD)), _rise(before))
    yield Row("predict bfloat16: memory above imports", was, rise, 0.6, most=True)


def matmul_share(result: Result | None, name: str, rate: float | None) -> float | None:
    """The share of the matmul rate at which the model's own operations were done."""
    if result is None or result.median is None or rate is None:
        return None
    work = result.loaded.get("flop_a_patient")
    return None if work is None else work[name] / result.median / rate


def _train(dtype: str, part: Section | None) -> Iterator[Row]:
    if part is None:
        return
    trl, tree, plain = (part.get(name) for name in (TRL, TREE, PLAIN))
    yield Row(f"train {dtype}, steps, tree", "packing=plain", ratio(plain, tree), 2.0)
    yield Row(f"train {dtype}, steps, tree", TRL, ratio(trl, tree), 5.0)
    epoch = seconds_an_epoch(part, TREE)
    whole = None if trl is None or trl.median is None else trl.median * EPOCH
    yield Row(f"train {dtype}, an epoch with its encoding, tree", TRL, _over(whole, epoch), 4.0)
    for result, name in ((tree, "tree"), (plain, "plain")):
        most = _over(_peak(result), _peak(trl))
        yield Row(f"train {dtype}, peak memory, {name}", TRL, most, 1.0, most=True)


def seconds_an_epoch(part: Section, name: str) -> float | None:
    """Encoding all images once, and a step on every patient."""
    steps, encoding = part.get(name), part.get(f"{name}, encoding")
    if steps is None or encoding is None or steps.median is None or encoding.median is None:
        return None
    return (steps.median + encoding.median) * EPOCH


def largest_loss_difference(part: Section, one: str, other: str) -> float | None:
    """Between the losses of the same steps; None where one has none."""
    pairs = [
        abs(a - b)
        for mine, theirs in zip(_answers(part, one), _answers(part, other), strict=False)
        for a, b in zip(mine["losses"], theirs["losses"], strict=True)
    ]
    return max(pairs) if pairs else None


def _answers(part: Section, name: str) -> list[dict[str, Any]]:
    return part[name].answers if name in part else []


def _generation(dtype: str, part: Section | None) -> Iterator[Row]:
    if part is None:
        return
    plain, ours = part.get("16 tokens, plain loop"), part.get("16 tokens, ours")
    told = f"generate 16 tokens for closed questions, {dtype}"
    yield Row(told, "plain loop, batch 8", ratio(plain, ours), 3.0)
    most = _over(_peak(ours), _peak(plain))
    yield Row(f"{told}: peak memory", "plain loop, batch 8", most, 1.0, most=True)
    for name in ("positioning", "conversations"):
        mine, theirs = part.get(f"{name}, ours"), part.get(f"{name}, vLLM")
        target = 0.9 if name == "conversations" else 1.0
        yield Row(f"{name}, {dtype}", VLLM, ratio(theirs, mine), target)


def choices(sections: Mapping[str, Section]) -> dict[str, Agreement]:
    """Our choices against everybody else's, in words the comparison."""
    found: dict[str, Agreement] = {}
    for dtype in WARM_OVER_VLLM:
        part = sections.get(f"predict {dtype}", {})
        ours = _answers(part, COLD)
        if not ours:
            continue
        mine, tables = ours[0]["choices"], ours[0]["probabilities"]
        for name, result in part.items():
            if name != COLD and result.answers and "choices" in result.answers[0]:
                theirs = result.answers[0]["choices"]
                found[f"{name}, {dtype}"] = agreement(mine, tables, theirs)
    whole = _answers(sections.get("predict float32", {}), COLD)
    half = _answers(sections.get("predict bfloat16", {}), COLD)
    if whole and half:
        found["ours in bfloat16 and in float32"] = agreement(
            whole[0]["choices"], whole[0]["probabilities"], half[0]["choices"]
        )
    return found


def equal_texts(part: Section, name: str) -> tuple[int, int] | None:
    """How many generated answers of ours and vLLM's are the same text, and of how many."""
    ours, theirs = _answers(part, f"{name}, ours"), _answers(part, f"{name}, vLLM")
    if not ours or not theirs:
        return None
    pairs = list(zip(ours[0]["texts"], theirs[0]["texts"], strict=True))
    return sum(a.strip() == b.strip() for a, b in pairs), len(pairs)


def _peak(result: Result | None) -> float | None:
    return None if result is None or result.peak is None else float(result.peak)


def _rise(result: Result | None) -> float | None:
    peak = _peak(result)
    return None if peak is None or result is None else peak - result.loaded["imports"]


def _over(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below


def median_rate(found: list[float]) -> float | None:
    """FLOP/s, as the rounds found it."""
    return statistics.median(found) if found else None
