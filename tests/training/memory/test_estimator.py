"""Estimates of tiny models against the models themselves, and against torch's own tracker."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from spinevl.build.trust import NOTHING
from spinevl.data.auxiliary_targets import head_sizes
from spinevl.data.heaviest import heaviest_batch
from spinevl.data.study import Study
from spinevl.models import llm
from spinevl.schema.batch import Batch
from spinevl.training.memory import attention
from spinevl.training.memory.estimator import Estimator
from spinevl.training.memory.live_bytes import LiveBytes
from spinevl.training.module import TrainingModule
from spinevl.training.prepare import starting_model, training_data, training_module
from spinevl.training.spec import TrainSpec
from spinevl.training.stage import stages_of

Make = Callable[..., TrainSpec]
STEP = ["trainer.batch_patients=2", "feature_cache.enabled=false"]
LONG = ["encoder.tokens_per_side=14"]  # trees are longer than a block with a mask
CASES = {
    "full": ["tuning=full"],
    "lora": ["tuning=lora", "warmup=none"],
    "frozen llm": ["tuning.llm=frozen", "warmup=none"],
    "recomputed": ["trainer.gradient_checkpointing=true"],
    "padded": ["trainer.packing=off", "warmup=none"],
    "long": ["tuning=full", *LONG],
}


@pytest.fixture(scope="module")
def estimator_of(make_spec: Make, study: Study) -> Callable[..., Estimator]:
    """Overrides -> their Estimator, which rehearses every batch once."""

    @functools.cache
    def estimator(*words: str) -> Estimator:
        made = Estimator(make_spec(*words), study)
        made.rehearsed = functools.cache(made.rehearsed)  # type: ignore[method-assign]
        return made

    return estimator


def real(spec: TrainSpec, study: Study) -> tuple[TrainingModule, Batch]:
    """The module and the heaviest batch of a training, with data."""
    model, _ = starting_model(spec, NOTHING)
    heads = head_sizes(study.tasks) if spec.warmup.weight else {}
    data = training_data(spec, study, model, heads)
    module = training_module(spec, model, heads, data.stand_ins())
    module.begin(stages_of(1, warmup=0.0, epoch_steps=1)[-1])
    return module, data.collate(heaviest_batch(data))


def test_flex_attention_is_rehearsed_as_blocks(estimator_of: Callable[..., Estimator]) -> None:
    assert estimator_of(*STEP, "trainer.attention=flex")(2) == estimator_of(*STEP)(2)


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_weights_gradients_and_optimizer_are_those_of_the_model(
    estimator_of: Callable[..., Estimator], study: Study, words: list[str]
) -> None:
    estimator = estimator_of(*STEP, *words)
    rows = {row.name: row for row in estimator(2).rows}
    module, batch = real(estimator.spec, study)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad])
    module.training_step(batch, 0).backward()
    optimizer.step()
    assert set(rows) == set(module.parts())
    for name, part in module.parts().items():
        learned = [p for p in part.parameters() if p.requires_grad]
        row = rows[name]
        stored = [*part.parameters(), *part.buffers()]
        assert row.weights == sum(one.nbytes for one in stored)
        assert row.gradients == sum(one.nbytes for one in learned)
        moments = [v for p in learned for k, v in optimizer.state[p].items() if k != "step"]
        assert row.optimizer == 2 * row.gradients
        # a parameter that got no gradient has no moments
        assert sum(one.nbytes for one in moments) <= row.optimizer


FEWER_BITS = {
    "bf16": ["llm.dtype=bfloat16", "encoder.dtype=bfloat16"],
    "nf4": ["llm.quantize=nf4"],
    "nf4 of bf16": ["llm.quantize=nf4", "llm.dtype=bfloat16"],
    "nf4 frozen": ["llm.quantize=nf4", "tuning.llm=frozen"],
}


@pytest.mark.parametrize("words", FEWER_BITS.values(), ids=FEWER_BITS)
def test_weights_of_fewer_bits_are_those_that_the_model_stores(
    estimator_of: Callable[..., Estimator], of_transformers: list[str], words: list[str]
) -> None:
    if "llm.quantize=nf4" in words:
        pytest.importorskip("bitsandbytes")
    whole = estimator_of(*of_transformers)(2)
    estimator = estimator_of(*of_transformers, *words)
    found = estimator(2)
    model, _ = starting_model(estimator.spec, NOTHING)
    rows = {row.name: row for row in found.rows}
    for name, part in model.named_children():
        stored = {one.untyped_storage() for one in [*part.parameters(), *part.buffers()]}
        for one in part.parameters():
            if state := getattr(one, "quant_state", None):
                stored |= {state.absmax.untyped_storage(), state.code.untyped_storage()}
        assert rows[name].weights == sum(one.nbytes() for one in stored)
        learned = sum(one.nbytes for one in part.parameters() if one.requires_grad)
        assert rows[name].gradients == learned
    assert found.tensors < whole.tensors


def test_four_bits_are_estimated_with_what_else_changes_a_layer(
    make_spec: Make, study: Study, of_transformers: list[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    for words in (["tuning.lora.dora=true"], ["trainer.gradient_checkpointing=true"]):
        words.append("trainer.plain_layers=true")  # as layers in four bits are computed
        four, whole = (
            Estimator(make_spec(*of_transformers, *words, f"llm.quantize={kind}"), study).rehearsed(
                2
            )
            for kind in ("nf4", "null")
        )
        assert four.all_weights.frozen < whole.all_weights.frozen
        # weights are dequantized on the way, in the backward pass too
        assert four.backward_peak >= whole.backward_peak


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_the_rehearsed_step_holds_what_the_step_holds(
    estimator_of: Callable[..., Estimator], study: Study, words: list[str]
) -> None:
    require_alike(estimator_of(*STEP, *words), study)


def test_so_does_one_with_adapters_beside_half_precision(
    make_spec: Make, study: Study, of_transformers: list[str]
) -> None:
    words = [*STEP, *of_transformers, "tuning=lora", "llm.dtype=bfloat16"]
    require_alike(Estimator(make_spec(*words), study), study)


def require_alike(estimator: Estimator, study: Study) -> None:
    """A step takes the memory that was rehearsed."""
    step = estimator.rehearsed(2)
    module, batch = real(estimator.spec, study)
    live = LiveBytes()
    live.count([*module.parameters(), *module.buffers()])
    weights = live.now
    batch = batch.each(torch.clone)
    with live:
        live.count(batch_tensors(batch))
        loss = module.training_step(batch, 0)
        forward = live.peak - weights
        live.restart_peak()
        loss.backward()
        backward = live.peak - weights
    assert step.tokens == batch.tokens
    assert step.forward_peak == pytest.approx(forward, rel=0.02)
    assert step.backward_peak == pytest.approx(backward, rel=0.02)


def batch_tensors(batch: Batch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    batch.each(lambda one: found.append(one) or one)  # type: ignore[func-returns-value]
    return found


def test_the_peak_is_that_of_torchs_own_tracker(make_spec: Make, study: Study) -> None:
    """An independent count of the same step, with data."""
    from torch.distributed._tools.mem_tracker import MemTracker

    spec = make_spec("trainer.batch_patients=2", "warmup=none", "tuning=full")
    step = Estimator(spec, study).rehearsed(2)
    module, batch = real(spec, study)
    tracker = MemTracker()
    tracker.track_external(module, *batch_tensors(batch))
    with tracker:
        module.training_step(batch, 0).backward()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    weights = step.all_weights.frozen + step.all_weights.trained
    assert weights + max(step.forward_peak, step.backward_peak) == pytest.approx(peak, rel=0.03)


# it takes no frozen weights
@pytest.mark.parametrize("name", ["full", "recomputed", "padded", "long"])
def test_a_gpus_step_under_fake_tensors_is_that_of_torchs_own_tracker(
    make_spec: Make, study: Study, name: str
) -> None:
    """An independent count, with the tensors that torch says CUDA's attention kernel makes.

    The tensors are the CPU's, for without CUDA torch takes no gradient of a GPU's.
    """
    from torch.distributed._tools.mem_tracker import MemTracker

    spec = make_spec("trainer.precision=bf16-mixed", *STEP, *CASES[name])
    step = Estimator(spec, study, device="cuda").rehearsed(2)
    module, batch = real(spec, study)
    with FakeTensorMode(allow_non_fake_inputs=True), attention_of_cuda():
        without_data(module)
        batch = batch.each(lambda one: torch.empty(one.shape, dtype=one.dtype))
        tracker = MemTracker()
        tracker.track_external(module, *batch_tensors(batch))
        with tracker:
            with torch.autocast("cpu", torch.bfloat16):
                loss = module.training_step(batch, 0)
            loss.backward()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    weights = step.all_weights.frozen + step.all_weights.trained
    assert weights + max(step.forward_peak, step.backward_peak) == pytest.approx(peak, rel=0.03)


def test_chains_are_rehearsed_where_the_step_takes_them(
    make_spec: Make, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    stand_in = attention._of_chains

    def noted(*args: Any) -> Any:
        counts.append(len(args[3].query_start) - 1)
        return stand_in(*args)

    monkeypatch.setattr(attention, "_of_chains", noted)
    for words, taken in (
        (["trainer.precision=bf16-mixed"], True),
        (["trainer.precision=bf16-mixed", "trainer.compile=true"], False),
        (["trainer.precision=bf16-mixed", "trainer.plain_layers=true"], False),
        (["trainer.precision=32-true"], False),
    ):
        counts.clear()
        Estimator(make_spec(*STEP, *LONG, *words), study, device="cuda").rehearsed(2)
        assert bool(counts) is taken, words


def without_data(module: torch.nn.Module) -> None:
    """Replace every tensor by a fake one; called within a fake mode."""
    for child in module.modules():
        for name, old in child._parameters.items():
            if old is not None:
                new = torch.empty(old.shape, dtype=old.dtype)
                child._parameters[name] = torch.nn.Parameter(new, old.requires_grad)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


@contextmanager
def attention_of_cuda() -> Iterator[None]:
    """Call CUDA's memory-efficient kernel by name, as torch does on a GPU with a mask.

    Chains are computed by FlashAttention, of which torch says itself what it makes.
    """

    def kernel_of(query: Any, key: Any, value: Any, attn_mask: Any = None, **_: Any) -> Any:
        heads = query.shape[1]
        key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
        query, key, value = (x.to(torch.bfloat16) for x in (query, key, value))
        if attn_mask is not None:
            keys = attn_mask.shape[-1]
            padded = functional.pad(attn_mask.to(torch.bfloat16), (0, -keys % 8))
            attn_mask = padded[..., :keys].expand(len(query), heads, -1, -1)
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(query, key, value, attn_mask, True)[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", kernel_of)
        patch.setattr(llm, "computes_chains", lambda *_: True)
        yield


def test_checkpointing_and_adapters_need_less_and_patients_more(
    make_spec: Make, study: Study
) -> None:
    def needed(patients: int, *words: str) -> float:
        return Estimator(make_spec("llm.layers=3", "llm.width=64", *words), study)(patients).total

    plain = needed(2)
    assert needed(4) > plain
    assert needed(2, "trainer.gradient_checkpointing=true") < plain
    assert needed(2, "tuning.llm=lora") < plain


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_a_step_of_a_gpu_is_rehearsed_without_one(
    make_spec: Make, study: Study, words: list[str]
) -> None:
    spec = make_spec("trainer.precision=bf16-mixed", *words)
    half = Estimator(spec, study, device="cuda")(2)
    whole = Estimator(make_spec("trainer.precision=32-true", *words), study, device="cuda")(2)
    assert [row.weights for row in half.rows] == [row.weights for row in whole.rows]
    assert half.tensors < whole.tensors


def test_the_largest_batch_is_the_last_that_fits(
    make_spec: Make, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator = Estimator(make_spec(), study)
    sizes = {n: estimator(n).total for n in range(1, 7)}
    assert sorted(sizes.values()) == list(sizes.values())
    for number in (1, 3, 6):
        fresh = Estimator(make_spec(), study)
        monkeypatch.setattr(fresh, "_estimate", estimator)  # which has rehearsed them
        assert fresh.largest_batch(sizes[number], most=64) == number
        assert len(fresh._known) <= 5
    assert estimator.largest_batch(sizes[1] - 1, most=64) == 0
    assert estimator.largest_batch(sizes[6] * 100, most=4) == 4


def test_features_that_are_kept_need_no_encoder(make_spec: Make, study: Study) -> None:
    words = ("tuning.encoder=frozen", "warmup=none")
    kept = Estimator(make_spec(*words, "feature_cache.enabled=true"), study)(2)
    encoded = Estimator(make_spec(*words, "feature_cache.enabled=false"), study)(2)
    by_name = {row.name: row.activations for row in kept.rows}
    assert by_name["encoder"] < {row.name: row.activations for row in encoded.rows}["encoder"]


def test_an_estimate_changes_nothing_of_the_spec(make_spec: Make, study: Study) -> None:
    spec = make_spec()
    before = dataclasses.asdict(spec)
    Estimator(spec, study)(1)
    assert dataclasses.asdict(spec) == before
