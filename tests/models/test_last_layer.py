"""The last layer computed for the tokens that are read: the same numbers, less work."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from small_llm import write_small_llm

from spinevl.models import last_layer, prefix_attention
from spinevl.models.llm import HFCausalLM, TinyLLM
from spinevl.models.prefix_attention import BlockMasks
from spinevl.schema.batch import AttentionBlocks

READ = torch.tensor([2, 5, 9])
PLACES = torch.arange(10)[None]


def masks() -> BlockMasks:
    block = AttentionBlocks(PLACES, PLACES, torch.ones(1, 10, 10, dtype=torch.bool).tril())
    return BlockMasks.of([block], PLACES[0], dtype=torch.float32)


def read_states(llm: Any, read: torch.Tensor | None) -> torch.Tensor:
    return llm.hidden(llm.embed(PLACES), masks(), PLACES, read)[0, READ]


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "gemma", "phi", "phi3", "olmo2"])
def test_hidden_states_and_gradients_are_those_of_the_whole_layer(kind: str, tmp_path: Any) -> None:
    llm = HFCausalLM(path=write_small_llm(tmp_path, kind), conversation="medmvl", end_token="A")
    assert "mlp" in llm.token_wise
    results = []
    for read in (None, READ):
        llm.zero_grad()
        states = read_states(llm, read)
        states.square().sum().backward()
        gradients = {
            name: one.grad.clone() for name, one in llm.named_parameters() if one.grad is not None
        }
        results.append((states.detach(), gradients))
    (whole, all_), (some, few) = results
    torch.testing.assert_close(some, whole, atol=1e-6, rtol=1e-5)
    assert all_.keys() == few.keys()
    for name, one in all_.items():
        torch.testing.assert_close(few[name], one, atol=1e-4, rtol=1e-4, msg=name)


def test_the_mlp_of_the_last_layer_sees_only_what_is_read() -> None:
    llm = TinyLLM(width=32, layers=2, heads=4)
    seen: list[int] = []
    for layer in llm.model.base_model.layers:
        layer.mlp.gate_proj.register_forward_hook(
            lambda module, inputs, output: seen.append(output.shape[1])
        )
    with torch.no_grad():
        read_states(llm, READ)
        read_states(llm, None)
    assert seen == [10, 3, 10, 10]


def test_threads_that_share_a_model_read_their_own_tokens() -> None:
    llm = TinyLLM(width=32, layers=2, heads=4)
    others = (None, torch.tensor([0]), torch.tensor([7, 8, 9]))

    def states(read: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            return llm.hidden(llm.embed(PLACES), masks(), PLACES, read)

    wanted = [states(one) for one in (READ, *others)]
    found: list[torch.Tensor] = []

    def meanwhile(*_: Any) -> None:
        if not found:
            with ThreadPoolExecutor(1) as pool:
                found.extend(pool.map(states, others))

    llm.model.base_model.layers[0].register_forward_hook(
        lambda *_: (
            None if threading.current_thread() is not threading.main_thread() else meanwhile()
        )
    )
    torch.testing.assert_close([states(READ), *found], wanted)


def test_a_layer_that_mixes_tokens_in_its_mlp_is_computed_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.models.qwen2 import modeling_qwen2

    plain = modeling_qwen2.Qwen2MLP.forward

    def mixing(self: Any, x: torch.Tensor) -> torch.Tensor:
        return plain(self, x) + x.cumsum(1)  # no token of its own

    model = TinyLLM(width=32, layers=2, heads=4).model
    assert prefix_attention.tried_token_wise(model) != ()
    monkeypatch.setattr(modeling_qwen2.Qwen2MLP, "forward", mixing)
    assert prefix_attention.tried_token_wise(model) == ()


def test_a_decoder_without_such_parts_has_none() -> None:
    class Other:
        base_model = torch.nn.Linear(2, 2)

    assert last_layer.token_wise_parts(Other()) == ()
