"""A frozen LLM whose linear layers hold four bits a weight, with adapters beside them.

Source: NF4 of QLoRA (Dettmers et al. 2023, arXiv 2305.14314), through bitsandbytes. The model is
read in the type that it is computed with, and quantized layer by layer. What is computed are the
dequantized weights; a checkpoint stores those, so that it is read without bitsandbytes, and gives
the numbers that the training saw.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from spinevl.models.sharded import is_sharded
from spinevl.schema.errors import UserError, refused

Quantize = Literal["nf4"]

_log = logging.getLogger("bitsandbytes")

_BLOCK = 64  # weights with a scale in common, as bitsandbytes has it


def check_quantization(node: Mapping[str, Any], mode: str, *, strategy: str = "auto") -> None:
    """Refuse an LLM that cannot be quantized.

    Args:
        node: the LLM's.
        mode: its mode.
        strategy: ``trainer.strategy``.

    Raises:
        UserError: its weights learn, bitsandbytes is not installed, or DeepSpeed would divide
            packed weights.
    """
    kind = node.get("quantize")
    if kind is None:
        return
    where = f"llm.quantize={kind}"
    if mode == "full":
        found, fix = "tuning.llm=full", "write tuning.llm=lora, or llm.quantize=null"
        raise refused(where, "an LLM whose weights do not learn", found, fix)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{where} needs a package that is not installed: pip install 'spinevl[quantize]'"
        )
    if strategy.startswith("deepspeed"):
        found, fix = f"trainer.strategy={strategy}", "write trainer=ddp, or llm.quantize=null"
        raise refused(where, "one device or DDP", found, fix)


def import_bitsandbytes() -> Any:
    """bitsandbytes, where it is installed; None elsewhere. Its import fetches no code.

    It would download compiled code from a hub, and run it, where the package ``kernels`` is
    installed too. peft imports it as well, so this is called before peft is used.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        return None
    if "bitsandbytes" not in sys.modules:
        kept, level = sys.modules.get("kernels"), _log.level
        sys.modules["kernels"] = None  # type: ignore[assignment]  # an import of it fails
        _log.setLevel(logging.ERROR)  # it would advise to install kernels
        try:
            importlib.import_module("bitsandbytes")
        finally:
            _log.setLevel(level)
            del sys.modules["kernels"]
            if kept is not None:
                sys.modules["kernels"] = kept
    return sys.modules["bitsandbytes"]


def quantize_nf4(llm: Any) -> None:
    """Quantize the linear layers of a decoder without adapters, but for its output head, in place.

    Args:
        llm: a Hugging Face causal LM; of one on the meta device layers are as large as those would
            be that are quantized.
    """
    bnb = import_bitsandbytes()
    head = llm.get_output_embeddings()
    for parent in list(llm.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or child is head:
                continue
            if child.weight.is_meta:
                setattr(parent, name, _Blank4bit(child))
                continue
            assert not is_sharded(child.weight)
            weight = child.weight
            layer = bnb.nn.Linear4bit(
                child.in_features,
                child.out_features,
                bias=False,
                compute_dtype=weight.dtype,
                quant_type="nf4",
                compress_statistics=False,  # dequantized weights are then quantized to themselves
                device="meta",
            )
            # else evaluation on a CPU packs the weights anew, and computes with rounded ones
            layer.support_avx512bf16_for_cpu = False
            packed: Any = bnb.nn.Params4bit(
                weight.data, requires_grad=False, quant_type="nf4", compress_statistics=False
            )
            layer.weight = packed.to(weight.device)  # quantizes
            layer.bias = child.bias
            setattr(parent, name, layer)
            del child.weight
    llm.is_loaded_in_4bit = True  # peft asks for it


class _Blank4bit(nn.Linear):
    """A quantized layer without memory: a training step allocates with it what it will then.

    Args:
        plain: the layer before it is quantized.
    """

    def __init__(self, plain: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.compute_dtype = plain.weight.dtype
        numbers = plain.weight.numel()
        with torch.device("meta"):
            packed = torch.empty((numbers + 1) // 2, 1, dtype=torch.uint8)
            self.register_buffer("absmax", torch.empty(-(-numbers // _BLOCK)))
            self.register_buffer("code", torch.empty(16))
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = plain.bias

    @property
    def W_q(self) -> torch.Tensor:
        """The weights, under the name by which peft knows that a layer dequantizes itself."""
        return self.weight

    def dequantize(self) -> torch.Tensor:
        """The weights as a step computes with them."""
        size = self.out_features, self.in_features
        return self.weight.new_empty(size, dtype=self.compute_dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Values [..., in] -> [..., out]."""
        return _Product.apply(x.to(self.compute_dtype), self).to(x.dtype)


class _Product(torch.autograd.Function):
    """With weights that are dequantized once more in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: _Blank4bit) -> torch.Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.dequantize(), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        return gradient @ ctx.layer.dequantize().to(gradient.dtype), None


def dequantized_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, in which quantized weights are plain ones of the type they compute with."""
    state = model.state_dict()
    for name, module in model.named_modules():
        quantization = getattr(getattr(module, "weight", None), "quant_state", None)
        key = f"{name}.weight"
        if quantization is not None and key in state:  # an adapter's layer shows its base's weight
            dequantize_4bit = import_bitsandbytes().functional.dequantize_4bit

            for one in [one for one in state if one.startswith(f"{key}.")]:
                del state[one]
            state[key] = dequantize_4bit(module.weight.data, quantization)
    return state
