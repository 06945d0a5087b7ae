"""The model card of an export: what it is, what it was trained on, how it scored."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from spinevl.checkpoints.interchange import TRIED
from spinevl.models.license import NOT_STATED, license_of
from spinevl.models.source import HUB_ID
from spinevl.report.card_question import first_question
from spinevl.report.markdown import as_code, as_markdown, rows
from spinevl.schema.errors import counted
from spinevl.schema.score import Score
from spinevl.schema.task import Task

_USAGE = {
    "hf": """```python
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

model = LlavaForConditionalGeneration.from_pretrained("THIS_FOLDER")
processor = LlavaProcessor.from_pretrained("THIS_FOLDER")
question = QUESTION
turns = [{"role": "user", "content": question}]
text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
images = [Image.open(name).convert("RGB") for name in IMAGES]
inputs = processor(images=images, text=text, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=32)[0, inputs["input_ids"].shape[1] :]
print(processor.tokenizer.decode(answer, skip_special_tokens=True))
```

In transformers 4.42, `LlavaProcessor(image_processor, tokenizer)` is put together from
`AutoImageProcessor` and `AutoTokenizer`.""",
    "medmvl": "`spinevl predict checkpoint=THIS_FOLDER data=conversations data.test=FILE.json`, or "
    "MedM-VL's own scripts with this folder as the working directory.",
    "peft": """The adapter of the language model alone. Where the folder has `base_model/`, that is
the language model it belongs to. `rest.safetensors` holds the connector, any adapter of the
encoder, and an encoder that is published nowhere else, under spinevl's names.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("BASE_MODEL")
model = PeftModel.from_pretrained(base, "THIS_FOLDER")
```""",
}


_TRIED = (
    f"Exports of this kind were loaded with transformers {', '.join(TRIED[:-1])} and {TRIED[-1]}, "
    "with the same token ids, logits (to 1e-4) and answers. Long rotary embeddings (Llama 3.1 and "
    "later, Phi-3 128k) need 4.43 or newer; 4.42 refuses them."
)


def card(
    config: Mapping[str, Any],
    *,
    tasks: Mapping[str, Task],
    license_id: str,
    score: Score | None,
    training: Mapping[str, Any] | None,
    form: str,
) -> str:
    """A README.md in the Hugging Face format.

    Args:
        config: the checkpoint's.
        tasks: what it was trained to answer; empty where it was conversations.
        license_id: an identifier of the Hugging Face hub, such as ``apache-2.0``.
        score: ``metrics.json`` of the run, where it is at hand.
        training: ``train.json`` of the run, where it is at hand.
        form: ``hf``, ``medmvl`` or ``peft``.
    """
    parts, study = config["parts"], config.get("study") or {}
    nodes = [node for name, node in parts.items() if name != "tuning"]
    # the hub knows ids, not folders of the machine that trained
    bases = [path for node in nodes if HUB_ID.fullmatch(path := str(node.get("path") or ""))]
    front = [
        "---",
        f"license: {_scalar(license_id)}",
        *(["base_model:", *(f"- {json.dumps(base)}" for base in bases)] if bases else []),
        f"library_name: {'peft' if form == 'peft' else 'transformers'}",
        "pipeline_tag: image-text-to-text",
        "tags: [medical-imaging, vision-language]",
        "---",
    ]
    sections = [
        "# A medical vision-language model",
        "Trained with spinevl. Not a medical device: for research, never for decisions about a "
        "patient.",
        "## Parts",
        as_markdown(
            [
                ["part", "kind", "tuning", "licence"],
                *(
                    [name, _kind(node), _tuning(parts, name), license_of(node)]
                    for name, node in parts.items()
                    if name != "tuning"
                ),
            ]
        ),
        f"A licence is what the part's own files say; `{NOT_STATED}` where they say nothing.",
        "## Training data",
        _data(study, config.get("parent")),
    ]
    if training:
        told = ("steps", "parameters", "trained_parameters", "dev_score", "device")
        facts = [[name, str(training[name])] for name in told if training.get(name) is not None]
        sections += ["## Training", as_markdown([["what", "value"], *facts])]
    asked = first_question(study, tasks)
    usage = _USAGE[form].replace("QUESTION", asked.content).replace("IMAGES", asked.files)
    sections += ["## Scores", _scores(score, tasks), "## How to load it", usage]
    sections += [asked.told, _TRIED] if asked.told else [_TRIED]
    return "\n".join(front) + "\n\n" + "\n\n".join(sections) + "\n"


def _tuning(parts: Mapping[str, Any], name: str) -> str:
    return str(parts["tuning"].get(name.removesuffix("3d"), ""))


def _scalar(text: str) -> str:
    """Text as a value of YAML; JSON's strings are YAML's too."""
    return text if re.fullmatch(r"[A-Za-z][\w.-]*", text) else json.dumps(text)


def _kind(node: Mapping[str, Any]) -> str:
    return f"{str(node['_target_']).rpartition('.')[2]} {origin(node) or ''}".strip()


def origin(node: Mapping[str, Any]) -> str | None:
    """Where a part came from: a Hugging Face id, a directory or a Python package."""
    return node.get("path") or node.get("package")


def _data(study: Mapping[str, Any], parent: str | None) -> str:
    facts = []
    if study.get("cohort"):
        note = ": rendered images, no clinical evidence" if study.get("synthetic") else ""
        facts.append(["cohort", f"{study['cohort']}{note}"])
    if parent:
        facts.append(["started from", parent])
    if study.get("task"):
        facts.append(["tasks", ", ".join(study["task"])])
    inputs = (study.get("fingerprint") or {}).get("inputs") or {}
    facts += [[f"sha256 of {name}", as_code(value)] for name, value in inputs.items()]
    return as_markdown([["what", "value"], *facts]) if facts else "Not recorded."


def _scores(score: Score | None, tasks: Mapping[str, Task]) -> str:
    if score is None:
        return "No `metrics.json` lay beside the checkpoint."
    who = f"On {counted(score.n_patients, 'patient')}" + (
        f" ({score.selection})" if score.selection else ""
    )
    head = f"{who}, beside baselines. 95 % intervals: {score.notes.get('ci95', 'not recorded')}."
    return f"{head}\n\n{as_markdown(rows(score, tasks))}"
