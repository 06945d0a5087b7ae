"""The LLM of a model by itself, as other engines read it; they are given its embeddings."""

from __future__ import annotations

from pathlib import Path

from spinevl.checkpoints.interchange import write_config
from spinevl.checkpoints.weights import unshared
from spinevl.io.files import writing
from spinevl.io.tensors import WEIGHTS, write_tensors
from spinevl.models.held import half_of
from spinevl.models.llm import CausalLM
from spinevl.schema.errors import refused


def write_decoder(folder: Path, llm: CausalLM) -> None:
    """Write config and weights of an LLM without adapters, in the types that they have.

    Any encoder and connector may stand before it: their visual tokens are embeddings like those of
    the text.

    Args:
        folder: a new one.
        llm: the LLM.

    Raises:
        UserError: an LLM that is not transformers' own, before anything is written.
    """
    kind = type(llm.model)
    if not kind.__module__.startswith("transformers."):
        found = f"{kind.__name__} of {kind.__module__.partition('.')[0]}"
        fix = "write predict.engine=native"
        raise refused("predict.engine=vllm", "an LLM whose code transformers has", found, fix)
    folder.mkdir(parents=True)
    dtype = "bfloat16" if half_of(llm) else "float32"
    write_config(folder, llm.model.config, architectures=[kind.__name__], dtype=dtype)
    tensors = {key.removeprefix("model."): tensor for key, tensor in unshared(llm).items()}
    with writing(folder / WEIGHTS):
        write_tensors(folder / WEIGHTS, tensors)
