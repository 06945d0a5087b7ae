"""Attention over packed prefix trees, as an attention function of transformers.

Every layer of a decoder works on single tokens except attention. So the packed rows pass through
the decoder as they are, and only here each block of queries attends to the keys it is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from spinevl.models.answer_cache import AnswerCache
from spinevl.models.chain_attention import chain_attention
from spinevl.models.last_layer import computed_at, token_wise_parts
from spinevl.models.masked_attention import additive_mask, masked_attention
from spinevl.models.tree_mask import TreeMask
from spinevl.schema.batch import AttentionBlocks, Batch, Chains
from spinevl.schema.prompt_batch import PromptBatch

NAME = "spinevl_prefix_attention"


@dataclass(frozen=True)
class BlockMasks:
    """The attention blocks of a batch with additive masks, the same for every layer.

    Attributes:
        blocks: (query [n, q], key [n, k], additive mask [n, 1, q, k]) of each group of blocks, or
            chains that need no mask.
        order: [B * L] where a token's output stands in the groups' concatenated outputs.
    """

    blocks: tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor] | Chains, ...]
    order: torch.Tensor

    @classmethod
    def of(
        cls,
        blocks: Sequence[AttentionBlocks],
        order: torch.Tensor,
        *,
        dtype: torch.dtype,
        chains: bool = False,
    ) -> BlockMasks:
        """The boolean masks of ``blocks`` as numbers of ``dtype``.

        Args:
            blocks, order: of a batch.
            dtype: of the masks.
            chains: whether chains are computed without masks, see chain_attention.
        """
        ready: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor] | Chains] = []
        kept = []  # which of the padded queries have an output
        for one in blocks:
            if chains and one.chains is not None:
                ready.append(one.chains)
                lengths = one.chains.query_start.diff()
                within = torch.arange(one.query.shape[1], device=order.device)
                kept.append((within < lengths[:, None]).flatten())
            else:
                ready.append((one.query, one.key, additive_mask(one.allowed, dtype).unsqueeze(1)))
                kept.append(torch.ones(one.query.numel(), dtype=torch.bool, device=order.device))
        if any(isinstance(one, Chains) for one in ready):
            order = (torch.cat(kept).cumsum(0) - 1)[order]
        return cls(tuple(ready), order)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float | None,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """query [B, H, L, d], key and value [B, H_kv, L, d] -> [B, L, H, d]."""
        batch, _, length, _ = query.shape
        flat_query, flat_key, flat_value = (
            one.transpose(1, 2).flatten(0, 1) for one in (query, key, value)
        )  # [B * L, heads, d]
        outputs = []
        for block in self.blocks:
            if isinstance(block, Chains):
                output = chain_attention(
                    flat_query.index_select(0, block.query),
                    flat_key.index_select(0, block.key),
                    flat_value.index_select(0, block.key),
                    block,
                    scaling=scaling,
                    dropout=dropout,
                )
                outputs.append(output)
                continue
            query_index, key_index, mask = block
            output = masked_attention(
                _gathered(flat_query, query_index),
                _gathered(flat_key, key_index),
                _gathered(flat_value, key_index),
                mask,
                scaling=scaling,
                dropout=dropout,
            )
            outputs.append(output.transpose(1, 2).flatten(0, 1))
        joined = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        return joined.index_select(0, self.order).unflatten(0, (batch, length))


Masks = BlockMasks | TreeMask


def masks_of(batch: Batch | PromptBatch, *, dtype: torch.dtype, chains: bool) -> Masks:
    """What the tokens of a batch attend to, as it is laid out.

    Args:
        batch: with attention blocks or the ends of subtrees.
        dtype, chains: see BlockMasks.of.
    """
    if batch.subtree_end is not None:
        return TreeMask.of(batch.subtree_end)
    return BlockMasks.of(batch.attention, batch.attention_order, dtype=dtype, chains=chains)


def prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    masks: Masks | None = None,
    answers: AnswerCache | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query [B, H, L, d], key and value [B, H_kv, L, d] -> [B, L, H, d].

    Without ``masks`` these are tokens of ``answers``. Without either this is transformers'
    own scaled dot-product attention.
    """
    if masks is None and answers is not None:
        return answers.attend(module, query, key, value, scaling), None
    if masks is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if answers is not None:
        answers.keep(module, *(one.transpose(1, 2).flatten(0, 1) for one in (key, value)))
    return masks.attend(query, key, value, scaling=scaling, dropout=dropout), None


def _gathered(flat: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """[B * L, heads, d] at index [n, k] -> [n, heads, k, d]."""
    chosen = flat.index_select(0, index.flatten())
    return chosen.unflatten(0, index.shape).transpose(1, 2)


def install(model: Any) -> None:
    """Make a Hugging Face decoder compute its attention with ``prefix_attention``, in place."""
    AttentionInterface.register(NAME, prefix_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def hidden_states(
    model: Any,
    embeddings: torch.Tensor,
    masks: Masks | None,
    position_ids: torch.Tensor,
    *,
    read: torch.Tensor | None = None,
    token_wise: Sequence[str] = (),
    answers: AnswerCache | None = None,
) -> torch.Tensor:
    """The forward pass: embeddings [B, L, dim], positions [B, L] -> hidden states [B, L, dim].

    Args:
        model: the decoder.
        embeddings, position_ids: of a batch.
        masks: what its tokens attend to; None where they are tokens of ``answers``.
        answers: takes in the keys of the batch's tokens.
        read: [R] flat index (b * L + i) of the tokens whose hidden states are used, if not all.
        token_wise: what of the last layer is computed for those alone, see ``last_layer``.
    """
    # the cache of answers changes in every step, in more than its shapes, so that nothing is
    # compiled while answers are generated
    decoder = model.base_model if answers is None else model.base_model._call_impl
    compiled = answers is None and model.base_model._compiled_call_impl is not None
    with computed_at(model, read, token_wise, position_ids.shape, compiled=compiled):
        output = decoder(
            inputs_embeds=embeddings,
            attention_mask=embeddings.new_zeros(1, 1, 1, 1),  # 4D: transformers makes none itself
            position_ids=position_ids,
            use_cache=False,
            masks=masks,
            answers=answers,
        )
    return output.last_hidden_state


def is_installed(model: Any) -> bool:
    """Whether ``install`` had an effect: code that comes with a model may ignore it."""
    return model.config._attn_implementation == NAME


@torch.no_grad()
def keeps_sequences_apart(model: Any) -> bool:
    """Whether prefix attention is exact, tried on two short sequences with a shared prefix.

    Args:
        model: a decoder in evaluation mode, in float32 on the CPU; it has prefix attention then.

    Returns:
        Whether the hidden states of the packed sequences are those of each sequence alone. False
        for decoders with attention code of their own, with attention sinks or biases by position,
        and with layers that pass state along the row (recurrent or convolutional).
    """
    layers = set(getattr(model.config, "layer_types", None) or ())
    if (
        getattr(model, "_is_stateful", False)
        or layers - {"full_attention", "sliding_attention"}
        or getattr(model.config, "attn_logit_softcapping", None)
    ):
        return False  # eight tokens might not show it
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (8,), generator=generator)
    branches = [[0, 1, 2, 3, 4], [0, 1, 2, 5, 6, 7]]
    allowed = torch.zeros(8, 8, dtype=torch.bool)
    position_ids = torch.zeros(1, 8, dtype=torch.long)
    for branch in branches:
        for depth, place in enumerate(branch):
            allowed[place, branch[: depth + 1]] = True
            position_ids[0, place] = depth
    everywhere = torch.arange(8)[None]
    try:
        alone = [model.base_model(ids[None, branch]).last_hidden_state[0] for branch in branches]
        embeddings = model.get_input_embeddings()(ids[None])
        install(model)
        if not is_installed(model):
            return False
        block = AttentionBlocks(everywhere, everywhere, allowed[None])
        masks = BlockMasks.of([block], everywhere[0], dtype=embeddings.dtype)
        packed = hidden_states(model, embeddings, masks, position_ids)[0]
    except (TypeError, ValueError, AttributeError, RuntimeError):
        return False  # its layers do not take the same arguments
    return all(
        (packed[branch] - one).abs().max() <= 1e-4 * one.abs().max()
        for branch, one in zip(branches, alone, strict=True)
    )


@torch.no_grad()
def tried_token_wise(model: Any) -> tuple[str, ...]:
    """What of a decoder's last layer may be computed for the tokens that are read alone.

    Args:
        model: a small decoder in evaluation mode, in float32 on the CPU, with prefix attention.

    Returns:
        The names of ``token_wise_parts``; none where the hidden states of some tokens would differ.
    """
    names = token_wise_parts(model)
    places, read = torch.arange(6)[None], torch.tensor([2, 5])
    block = AttentionBlocks(places, places, torch.ones(1, 6, 6, dtype=torch.bool).tril())
    embeddings = model.get_input_embeddings()(places)
    masks = BlockMasks.of([block], places[0], dtype=embeddings.dtype)
    whole = hidden_states(model, embeddings, masks, places)[0, read]
    try:
        some = hidden_states(model, embeddings, masks, places, read=read, token_wise=names)[0, read]
    except (TypeError, ValueError, AttributeError, RuntimeError):
        return ()  # a part that takes or returns something else
    return names if (whole - some).abs().max() <= 1e-5 * whole.abs().max() else ()
