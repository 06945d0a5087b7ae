"""Load exports with the transformers of this interpreter, and compare with what is expected.

``python load_exports.py FOLDER`` prints a line for each export and exits with 1 where anything
differs. It needs torch and any transformers from 4.42 on, and nothing of spinevl.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)

VERSION = tuple(int(one) for one in transformers.__version__.split(".")[:2])
V4 = VERSION < (5, 0)
# knows no long rotary embeddings, and no fields of processors
OLD = VERSION < (4, 43)
TOLERANCE = 1e-4
COLUMNS = ("keys", "config", "ids", "pixels", "logits", "answer")


class Export:
    """One export, what is expected of it, and what was found wrong, by column."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "export"
        self.told = json.loads((folder / "expected.json").read_text())
        self.tensors = load_file(folder / "expected.safetensors")
        self.image = Image.open(folder / "image.png").convert("RGB")
        self.wrong: dict[str, str] = {}
        self.done: dict[str, str] = {}

    def check(self) -> None:
        """Fill ``done`` and ``wrong``."""
        if OLD and self.told["too_new"]:
            self._refused()
            return
        {"medmvl": self._medmvl, "hf": self._llava, "peft": self._adapter}[self.told["form"]]()

    def _refused(self) -> None:
        """Rotary embeddings of a later date must be refused, and not be computed otherwise."""
        try:
            AutoConfig.from_pretrained(
                self.folder / ("llm" if (self.folder / "llm").is_dir() else "")
            )
        except ValueError as error:
            self._same("config", "rope_scaling" in str(error), True)
            self.done["config"] = "refused"
        else:
            self.wrong["config"] = "a newer rope_type was not refused"

    def _medmvl(self) -> None:
        """The parts that MedM-VL puts together, with the plain classes that it uses."""
        weights = load_file(self.folder / "model.safetensors")
        config = self._config(self.folder / "llm")
        llm = AutoModelForCausalLM.from_config(config).eval()
        self._fill(llm, weights, "llm.")
        llm.generation_config = GenerationConfig.from_pretrained(self.folder / "llm")
        self._ends(self.folder, self.folder / "llm")
        for folder in (self.folder, self.folder / "llm"):
            for fast in (True, False):
                self._tokenizer(folder, fast=fast)
        visual = self.tensors["visual"]
        encoder = self.folder / "encoder_image"
        if (encoder / "preprocessor_config.json").is_file():
            tower = AutoModel.from_config(AutoConfig.from_pretrained(encoder)).eval()
            self._fill(tower, weights, "encoder_image.encoder.")
            if self.told["flat"]:
                features = self._features(tower, self._pixels(encoder))
                visual = self._connector(weights)(features)[0]
        self._answers(llm, visual)

    def _llava(self) -> None:
        """A LLaVA, as anybody loads one from the hub."""
        llava = self._pretrained(transformers.LlavaForConditionalGeneration, self.folder)
        tokenizer = self._tokenizer(self.folder, fast=True)
        self._text_config(llava.config.text_config)
        self._ends(self.folder)
        self._same("config", llava.config.eos_token_id, self.told["end"])
        if OLD:  # its processor knows nothing of what newer ones read from processor_config.json
            processor = transformers.LlavaProcessor(_image_processor(self.folder), tokenizer)
        else:
            processor = self._processor(tokenizer)
        self._pixels(self.folder)
        text = self._chat(tokenizer, processor)
        bos = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        made = processor(text=text, images=self.image, return_tensors="pt")
        if bos:  # the template wrote it
            made = {k: v[:, 1:] if v.ndim == 2 else v for k, v in made.items()}
        image = tokenizer.convert_tokens_to_ids("<image>")
        self._same("ids", made["input_ids"][0].tolist(), self._ids(image, spread=not OLD))
        made = {name: made[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        with torch.no_grad():
            self._logits(llava(**made).logits[0])
            out = llava.generate(**made, max_new_tokens=self.told["max_new_tokens"])[0]
        self._answer(out[made["input_ids"].shape[1] :].tolist())

    def _adapter(self) -> None:
        """The language model beside the adapter, with the adapter added by hand."""
        base = self.folder / "base_model"
        llm = self._pretrained(AutoModelForCausalLM, base)
        self._text_config(llm.config)
        self._ends(self.folder, base)
        for folder in (self.folder, base):
            self._tokenizer(folder, fast=True)
        told = json.loads((self.folder / "adapter_config.json").read_text())
        adapter = load_file(self.folder / "adapter_model.safetensors")
        for name, down in adapter.items():
            if not name.endswith(".lora_A.weight"):
                continue
            up = adapter[name.replace("lora_A", "lora_B")]
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            llm.get_submodule(module).weight.data += told["lora_alpha"] / told["r"] * up @ down
        self._answers(llm, self.tensors["visual"])

    def _pretrained(self, model_class: Any, folder: Path) -> Any:
        options = {"attn_implementation": "eager"} if OLD else {}  # Phi-3 had no other in LLaVA
        model, info = model_class.from_pretrained(folder, output_loading_info=True, **options)
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            self._same("keys", sorted(info[what]), [])
        return model.eval()

    def _fill(self, module: nn.Module, weights: dict[str, torch.Tensor], prefix: str) -> None:
        """Load what stands under a prefix; transformers 5.6 and later have no vision_model."""
        own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        if not any(name.startswith("vision_model.") for name in module.state_dict()):
            own = {name.removeprefix("vision_model."): tensor for name, tensor in own.items()}
        missing, unexpected = module.load_state_dict(own, strict=False)
        self._same("keys", [*missing, *unexpected], [])

    def _config(self, folder: Path) -> Any:
        config = AutoConfig.from_pretrained(folder)
        self._text_config(config)
        return config

    def _text_config(self, config: Any) -> None:
        for name, value in self.told["config"].items():
            self._same("config", getattr(config, name), value)
        self._same("config", config.eos_token_id, self.told["end"])
        rope = self.told["rope"]
        if not V4:
            found = {k: v for k, v in config.rope_parameters.items() if k != "type"}
            partial = {"partial_rotary_factor": 1.0}  # which Phi-3 states only when it is read
            self._same("config", {**partial, **found}, {**partial, **rope})
            return
        self._same("config", config.rope_theta, rope["rope_theta"])
        partial = getattr(config, "partial_rotary_factor", 1.0)
        self._same("config", partial, rope.get("partial_rotary_factor", 1.0))
        factors = (config.rope_scaling or {}).get("short_factor")
        self._same("config", factors, rope.get("short_factor"))

    def _ends(self, *folders: Path) -> None:
        for folder in folders:
            for name in ("generation_config.json", "config.json"):
                if name != "config.json" or (folder / name).is_file():
                    told = json.loads((folder / name).read_text())
                    self._same("config", told["eos_token_id"], self.told["end"])

    def _tokenizer(self, folder: Path, *, fast: bool) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=fast)
        for text, ids in self.told["texts"]:
            found = tokenizer(text, add_special_tokens=False)["input_ids"]
            self._same("ids", found, ids)
        found = tokenizer(self.told["end_token"], add_special_tokens=False)["input_ids"]
        self._same("ids", found, [self.told["end"]])
        return tokenizer

    def _chat(self, tokenizer: Any, processor: Any) -> str:
        """The prompt as the chat template writes it, for content as a text and as a list."""
        question = self.told["question"]
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        texts = [
            writer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            for writer in ([tokenizer] if OLD else [tokenizer, processor])
            for content in (f"<image>\n{question}", parts)
        ]
        self._same("ids", texts, texts[:1] * len(texts))
        return str(texts[0])

    def _pixels(self, folder: Path) -> torch.Tensor:
        processor = _image_processor(folder)
        pixels = torch.as_tensor(processor(self.image, return_tensors="pt")["pixel_values"])
        self._near("pixels", pixels, self.tensors["pixels"])
        return pixels

    def _processor(self, tokenizer: Any) -> Any:
        """What prepares text and images, with the pixels that Pillow makes."""
        images = _image_processor(self.folder)
        try:
            processor = transformers.AutoProcessor.from_pretrained(self.folder)
        except ImportError:  # the automatic classes of 5.6 ask for torchvision
            told = json.loads((self.folder / "processor_config.json").read_text())
            del told["processor_class"]
            template = tokenizer.chat_template
            return transformers.LlavaProcessor(images, tokenizer, chat_template=template, **told)
        processor.image_processor = images
        return processor

    def _features(self, tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            states = tower(pixels, output_hidden_states=True).hidden_states
        return states[self.told["select_layer"]][:, self.told["dropped"] :]

    def _connector(self, weights: dict[str, torch.Tensor]) -> nn.Module:
        prefix = "connector_image.connector."
        wide, narrow = weights[f"{prefix}0.weight"].shape
        layers = nn.Sequential(nn.Linear(narrow, wide), nn.GELU(), nn.Linear(wide, wide))
        self._fill(layers, weights, prefix)
        return layers

    @torch.no_grad()
    def _answers(self, llm: Any, visual: torch.Tensor) -> None:
        """Logits and answer of an LLM that is given embeddings."""
        ids = torch.tensor([self._ids(-1, spread=True)])
        embedded = llm.get_input_embeddings()(ids.clamp(min=0)).clone()
        embedded[ids == -1] = visual
        self._logits(llm(inputs_embeds=embedded).logits[0])
        out = llm.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.told["max_new_tokens"],
        )
        self._answer(out[0].tolist())

    def _ids(self, image: int, *, spread: bool) -> list[int]:
        """The prompt's ids; the image stands once, or once for each visual token."""
        found = []
        for one in self.told["ids"]:
            found += [one] if one >= 0 else [image] * (self.told["visual_tokens"] if spread else 1)
        return found

    def _logits(self, found: torch.Tensor) -> None:
        wanted = self.tensors["logits"]
        self._near("logits", found[:, : wanted.shape[1]], wanted)  # <image> may be one token more

    def _answer(self, found: list[int]) -> None:
        wanted, longest = self.told["answer"], self.told["max_new_tokens"]
        self._same(
            "answer", found, wanted if len(wanted) == longest else [*wanted, self.told["end"]]
        )

    def _near(self, column: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
        if found.shape != wanted.shape:
            self._same(column, list(found.shape), list(wanted.shape))
            return
        far = float((found - wanted).abs().max())
        self.done.setdefault(column, f"{far:.0e}")
        if not far <= TOLERANCE:
            self.wrong.setdefault(column, f"{far:.1e} off")

    def _same(self, column: str, found: Any, wanted: Any) -> None:
        self.done.setdefault(column, "equal")
        if found != wanted:
            self.wrong.setdefault(column, f"expected {wanted!r}, found {found!r}")


def _image_processor(folder: Path) -> Any:
    """An image processor of Pillow, as ours are; those of torchvision round differently."""
    if V4:
        return AutoImageProcessor.from_pretrained(folder, use_fast=False)
    told = json.loads((folder / "preprocessor_config.json").read_text())
    return getattr(transformers, told["image_processor_type"] + "Pil").from_pretrained(folder)


def main(home: Path) -> int:
    """Check every export under a folder; returns the exit code."""
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    print(f"{'export':44}" + "".join(f"{name:8}" for name in COLUMNS))
    failed = 0
    for folder in sorted(one.parent for one in home.glob("*/expected.json")):
        export = Export(folder)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                export.check()
            except Exception as error:  # whatever a version of transformers raises is a finding
                export.wrong["keys"] = f"{type(error).__name__}: {error}"
        marks = (
            "WRONG" if name in export.wrong else export.done.get(name, "-") for name in COLUMNS
        )
        print(f"{folder.name:44}" + "".join(f"{mark:8}" for mark in marks))
        for column, text in export.wrong.items():
            print(f"    {column}: {text[:300]}")
        failed += bool(export.wrong)
    return int(failed > 0)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    sys.exit(main(Path(sys.argv[1])))
