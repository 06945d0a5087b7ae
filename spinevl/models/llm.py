"""The language model: any Hugging Face causal LM, run on embeddings with prefix attention."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from spinevl.build.roles import role
from spinevl.config.keys import Positive
from spinevl.models import fewer_passes, packed, prefix_attention, products
from spinevl.models.answer_cache import AnswerCache
from spinevl.models.chain_attention import computes_chains
from spinevl.models.held import DType, autocast_of, torch_dtype
from spinevl.models.prefix_attention import Masks, masks_of
from spinevl.models.quantized import Quantize
from spinevl.models.sharded import is_sharded, read_as_shares, require_finite_shares
from spinevl.models.small_copy import small_copy
from spinevl.models.source import checked_source, pretrained_model, refuse_kernels
from spinevl.models.template_trial import excess_of
from spinevl.schema.batch import Batch
from spinevl.schema.errors import UserError, refused
from spinevl.schema.prompt_batch import PromptBatch

Template = Literal["medmvl", "chat", "pretrain"]

MOST_LOGITS = 2**26
"""The most logits that are computed in one part: a quarter of a gigabyte in float32."""

RECOMPILE_LIMIT = 64
SMALLEST_HEAD = 16  # of FlexAttention's kernels
# names in the config of a decoder whose keys and values, or layers, differ in the size of a head
_HEADS_OF_SEVERAL_SIZES = ("v_head_dim", "qk_rope_head_dim", "global_head_dim")

# the date for chat templates that write today's: a prompt must not change from day to day
_DATE = "26 Jul 2024"


@role("language model", remote_code=True)
class CausalLM(nn.Module):
    """A decoder and its tokenizer.

    Args:
        model: a Hugging Face causal LM.
        tokenizer: its fast tokenizer.
        conversation: the conversation template that it is trained with.
        end_token: what ends an answer under ``medmvl``; the tokenizer's eos by default.
        max_length: a bound on the sequences, in tokens.

    Attributes:
        dim: width of an embedding. Visual tokens are spliced into the output of ``embed``, where
            Gemma has multiplied its table by sqrt(dim); a connector learns that scale.
        max_length: the longest sequence in tokens: what was asked for, and never more than its
            positions or its sliding window, beyond which a token would not attend to its whole
            sequence. With LongRoPE the frequencies of a whole batch change where one sequence is
            longer than the original positions; so those are the bound.
        plain_layers: compute every layer as transformers does, for every token; where False, the
            last layer is computed where it is read, others in fewer passes over memory, and chains
            of tokens without masks.
        takes_fewer_passes: whether norms and rotary embeddings in fewer passes were tried and
            change nothing.
        takes_chains: whether chains of tokens are computed without masks where a GPU does so.
        takes_packed_weights: whether they were tried and change nothing.

    Raises:
        UserError: a decoder that mixes packed sequences, or changes its logits after the head.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        conversation: Template,
        end_token: str | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self.token_wise, norms, self.takes_packed_weights = _tried(model)
        prefix_attention.install(model)
        fewer_passes.install(model, norms)
        products.install(model)
        self.takes_fewer_passes = bool(norms)
        self.plain_layers = False
        self.takes_chains = True
        self.model = model
        self.quantize: Quantize | None = None
        self.tokenizer = tokenizer
        self.conversation = conversation
        self.end_token = end_token
        config = model.config
        self.dim = int(config.hidden_size)
        positions = int(getattr(config, "max_position_embeddings", 0) or 2**31)
        self.max_length = min(max_length or positions, positions)
        if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
            self.max_length = min(self.max_length, int(config.sliding_window))
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":
            self.max_length = min(self.max_length, int(rope["original_max_position_embeddings"]))

    def use_prefix_attention(self) -> None:
        """Install prefix attention again, after another attention implementation was set."""
        prefix_attention.install(self.model)

    def compile(self, *, cuda_graphs: bool = False, **options: Any) -> None:
        """Compile the decoder in place; ``options`` as of torch.compile.

        Batches differ in how many blocks of attention they have, so it is compiled more often than
        torch does by default, which runs uncompiled from then on.
        """
        self.takes_chains = False  # it would be compiled again for each batch's longest one
        mode = {"mode": "reduce-overhead"} if cuda_graphs else {}
        told = {"dynamic": True, "recompile_limit": RECOMPILE_LIMIT, **mode}
        self.model.base_model.compile(**{**told, **options})

    @property
    def is_compiled(self) -> bool:
        """Whether the decoder was compiled."""
        return self.model.base_model._compiled_call_impl is not None

    def check_flex(self, *, learn: bool) -> None:
        """Refuse a decoder whose attention FlexAttention cannot compute.

        Args:
            learn: whether it is in training mode, in which attention weights may be dropped out.

        Raises:
            UserError: see above.
        """
        names = ("attention_dropout", "attn_pdrop")
        dropout = max(float(getattr(self.model.config, name, 0.0) or 0.0) for name in names)
        problem = f"heads of {self.head_dim} numbers" if self.head_dim < SMALLEST_HEAD else ""
        if learn and dropout:
            problem = f"attention_dropout={dropout} in its config"
        if problem:
            wanted = f"heads of {SMALLEST_HEAD} numbers or more, and no attention dropout"
            raise refused("llm: FlexAttention", wanted, problem, "take attention=blocks")

    def pack_weights(self, *, head: bool) -> None:
        """Pack the weights of linear layers where products are faster then; for answering alone.

        Args:
            head: those of the output head too; options are then scored more slowly, which reads
                its rows.
        """
        first, *others = {one.dtype for one in self.model.parameters()}
        if not self.takes_packed_weights or others or not packed.pays(first, self.model.device):
            return
        packed.pack(self.model if head else self.model.base_model)

    @property
    def head_dim(self) -> int:
        """Numbers of a query's head."""
        config = self.model.config
        return int(getattr(config, "head_dim", None) or self.dim // config.num_attention_heads)

    def autocast(self) -> AbstractContextManager[Any]:
        """What the decoder is to be called in; see autocast_of."""
        return autocast_of(self.model)

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids [B, L] -> [B, L, dim]."""
        return self.model.get_input_embeddings()(input_ids)

    def masks(self, batch: Batch | PromptBatch, *, dtype: torch.dtype) -> Masks:
        """What the tokens of a batch attend to.

        Args:
            batch: on the device of the decoder.
            dtype: of the embeddings.
        """
        device = batch.position_ids.device
        with self.autocast():
            autocast = torch.is_autocast_enabled(device.type)
            computed = torch.get_autocast_dtype(device.type) if autocast else dtype
        chains = (
            self.takes_chains
            and not self.plain_layers
            and not any(hasattr(self.model.config, name) for name in _HEADS_OF_SEVERAL_SIZES)
            and computes_chains(device, computed, self.head_dim)
        )
        return masks_of(batch, dtype=dtype, chains=chains)

    def hidden(
        self,
        embeddings: torch.Tensor,
        masks: Masks | None,
        position_ids: torch.Tensor,
        read: torch.Tensor | None = None,
        answers: AnswerCache | None = None,
    ) -> torch.Tensor:
        """Embeddings [B, L, dim], positions [B, L] -> hidden states [B, L, dim].

        Args:
            embeddings, position_ids: of packed rows, or of a token of each answer [1, R].
            masks: what the tokens of rows attend to; None for those of answers.
            read: [R] flat index of the tokens whose hidden states are read; others may be wrong.
            answers: takes in the rows' keys, or has what a token of each answer attends to.
        """
        norms = self.takes_fewer_passes
        with self.autocast(), fewer_passes.computed(not self.plain_layers, norms=norms):
            return prefix_attention.hidden_states(
                self.model,
                embeddings,
                masks,
                position_ids,
                read=read,
                token_wise=() if self.plain_layers else self.token_wise,
                answers=answers,
            )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [T, dim] -> [T, vocabulary]."""
        with self.autocast(), fewer_passes.computed(not self.plain_layers):
            return self.model.get_output_embeddings()(hidden)

    def logprobs(self, hidden: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The log-probability of token ``ids`` [T] at ``rows`` [T] of hidden [R, dim], float32 [T].

        More than MOST_LOGITS are computed in parts, and again in the backward pass: measured, 2,000
        tokens of a vocabulary of 152,000 take 0.8 GB then and 3.6 GB otherwise.
        """
        step = max(1, MOST_LOGITS // int(self.model.config.vocab_size))
        # ranks that share the head's weight must all call it equally often
        shared = any(map(is_sharded, self.model.get_output_embeddings().parameters()))
        if self.plain_layers or shared or len(hidden) <= step:
            return self._logprobs(hidden, rows, ids)
        found = hidden.new_zeros(len(ids), dtype=torch.float32)
        for number, part in enumerate(hidden.split(step)):
            places = rows - number * step
            inside = (places >= 0) & (places < len(part))
            places = places.clamp(0, len(part) - 1)
            if torch.is_grad_enabled():
                some = checkpoint(self._logprobs, part, places, ids, use_reentrant=False)
            else:
                some = self._logprobs(part, places, ids)
            found = torch.where(inside, some, found)
        return found

    def _logprobs(
        self, hidden: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor
    ) -> torch.Tensor:
        return torch.log_softmax(self.logits(hidden).float(), dim=-1)[rows, ids]

    def logits_of(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """hidden [T, dim], token ids [T, W] -> their logits, float32 [T, W]."""
        head = self.model.get_output_embeddings()
        if type(head) is not nn.Linear or head.weight.shape != (head.out_features, hidden.shape[1]):
            return self.logits(hidden).float().gather(1, ids)  # adapted, or held in shares
        # the head's products in float32: those in half precision would be rounded to its 8 bits
        logits = torch.einsum("td,twd->tw", hidden.float(), head.weight[ids].float())
        return logits if head.bias is None else logits + head.bias[ids].float()

    def keep_embeddings_alone(self) -> None:
        """Let go of all weights but the embedding table: another engine reads its embeddings."""
        kept = {id(one) for one in self.model.get_input_embeddings().parameters()}
        for one in self.model.parameters():
            if id(one) not in kept:
                one.data = one.data.new_empty(0)

    def save_description(self, folder: Path) -> None:
        """Write config and tokenizer, so that a checkpoint needs no other directory."""
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _require_known_tokens(model: Any, tokenizer: Any, *, where: str) -> None:
    """Refuse a tokenizer that writes ids for which the model has no embedding."""
    rows = int(model.get_input_embeddings().num_embeddings)
    unused = {tokenizer.unk_token, tokenizer.pad_token}  # a tokenizer's class may add them
    known = ((token, one) for token, one in tokenizer.get_vocab().items() if token not in unused)
    token, last = max(known, key=lambda one: one[1])
    if last >= rows:
        raise refused(
            f"{where}: its tokenizer",
            f"ids below {rows}, the rows of the embedding table",
            f"ids up to {last}, {token!r}",
            "use the tokenizer that belongs to the weights",
        )


# class and config of a decoder -> what its trial has shown in this process
_trials: dict[tuple[type, str], tuple[tuple[str, ...], frozenset[type], bool]] = {}


def _tried(model: Any) -> tuple[tuple[str, ...], frozenset[type], bool]:
    """Try a small copy of the model.

    Returns:
        What of its last layer may be computed for predicting tokens alone, which classes of norms
        in fewer passes, and whether weights may be packed.

    Raises:
        UserError: packed sequences or its head would be wrong.
    """
    kind = model.config.model_type
    alike = (type(model), model.config.to_json_string(use_diff=False))
    if alike in _trials:
        return _trials[alike]
    with torch.device("cpu"):  # whatever device a model is built on
        small = small_copy(model)
        packs = small is not None and prefix_attention.keeps_sequences_apart(small)
        plain = packs and _has_plain_head(small)
        token_wise = prefix_attention.tried_token_wise(small) if packs else ()
        norms = fewer_passes.tried(small) if packs else frozenset()
        weights = packs and packed.tried(small)  # the last, since it leaves none
    if not packs:
        raise UserError(
            f"llm: {kind} mixes packed sequences (it has recurrent layers, attention sinks, soft "
            "caps or attention code of its own), so questions cannot share a row; choose another "
            "model"
        )
    if not plain:
        raise UserError(
            f"llm: {kind} scales or caps its logits after the output head, and only the output "
            "head is used here; choose another model"
        )
    _trials[alike] = token_wise, norms, weights
    return _trials[alike]


@torch.no_grad()
def _has_plain_head(model: Any) -> bool:
    """Whether logits are the output head of the hidden states and no more, tried on two tokens."""
    ids = torch.tensor([[0, 1]])
    ours = model.get_output_embeddings()(model.base_model(ids).last_hidden_state)
    theirs = model(ids).logits
    return bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max())


class HFCausalLM(CausalLM):
    """A causal LM by Hugging Face id or local directory.

    Args:
        path: id or directory with config, tokenizer and, where ``pretrained``, safetensors.
        conversation: ``chat``, ``medmvl`` or ``pretrain``.
        pretrained: load weights; otherwise initialise at random.
        dtype: the type that weights are held in; ``assemble`` decides what ``auto`` means.
        quantize: ``nf4`` holds the linear layers of a frozen LLM in four bits a weight.
        end_token: see CausalLM.
        max_length: see CausalLM.
        chat_template_options: variables of the chat template, such as ``enable_thinking: false``.
        trust_remote_code: run code that comes with the model. Off unless asked by name.
    """

    def __init__(
        self,
        *,
        path: str,
        conversation: Template = "chat",
        pretrained: bool = True,
        dtype: DType = "float32",
        quantize: Quantize | None = None,
        end_token: str | None = None,
        max_length: int | None = None,
        chat_template_options: Mapping[str, bool | int | str] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        with checked_source(path, what="llm.path"):
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
            refuse_kernels(config, what="llm.path", path=path)
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
            code = {"trust_remote_code": trust_remote_code}
            if pretrained:
                read = {"config": config, **code}
                with read_as_shares(torch_dtype(dtype)):
                    model = pretrained_model(
                        AutoModelForCausalLM, path, what="llm.path", dtype=dtype, **read
                    )
                require_finite_shares(model, where=f"llm.path={path}")
            else:
                model = AutoModelForCausalLM.from_config(config, dtype=torch_dtype(dtype), **code)
        if not tokenizer("Which curvature?", add_special_tokens=False)["input_ids"]:
            # transformers creates an empty tokenizer where the files are missing
            raise refused(
                f"llm.path={path}",
                "a tokenizer beside the config (tokenizer.json or its older files)",
                "none that knows any word",
                "add its files",
            )
        if not tokenizer.is_fast:
            raise UserError(
                f"llm.path={path}: its tokenizer has no fast version, and answers are found by "
                "token offsets; convert it to tokenizer.json"
            )
        _require_known_tokens(model, tokenizer, where=f"llm.path={path}")
        _settle_template(tokenizer, chat_template_options or {}, where=f"llm.path={path}")
        super().__init__(
            model,
            tokenizer,
            conversation=conversation,
            end_token=end_token,
            max_length=max_length,
        )
        self.quantize = quantize


def _settle_template(
    tokenizer: Any, options: Mapping[str, bool | int | str], *, where: str
) -> None:
    """Write ``options``, and a date that stays, at the head of the tokenizer's chat template.

    There they are saved in every checkpoint with the tokenizer, so that later prompts have the
    same text as those of the training.

    Raises:
        ValueError: options for a tokenizer without a chat template.
        UserError: a template that takes too much time or memory.
    """
    template = tokenizer.chat_template
    if isinstance(template, str) and (excess := excess_of(template)):
        raise refused(f"{where}: its chat template", "a short text", excess, "mend the template")
    if not isinstance(template, str):
        if options:
            raise ValueError(
                f"chat_template_options={dict(options)}: this tokenizer has no chat template; "
                "leave them out"
            )
        return
    head = "".join(
        f"{{% set {name} = {json.dumps(value)} +%}}" for name, value in sorted(options.items())
    )
    if "strftime_now" in template:
        head += f"{{% macro strftime_now(format) %}}{_DATE}{{% endmacro +%}}"
    if not template.startswith(head):
        tokenizer.chat_template = head + template


class TinyLLM(CausalLM):
    """A small decoder from scratch (the Qwen2 architecture) with its own tokenizer.

    Args:
        width: of an embedding; a multiple of ``heads``.
        layers, heads: of the decoder.
        conversation: ``chat`` or ``medmvl``.
        max_length: the longest sequence in tokens.
    """

    def __init__(
        self,
        *,
        width: Positive = 128,
        layers: Positive = 2,
        heads: Positive = 4,
        conversation: Template = "chat",
        max_length: int = 1024,
    ) -> None:
        from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

        folder = resources.files("spinevl.models") / "tiny_tokenizer"
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=max_length,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
        super().__init__(Qwen2ForCausalLM(config), tokenizer, conversation=conversation)
