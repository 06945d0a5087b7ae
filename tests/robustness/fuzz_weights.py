"""Checkpoints whose weights or sizes are not what their config says."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_bytes import Mutation, replace


def _tensors(change: Callable[[dict[str, Any], str], None]) -> Mutation:
    """Change one tensor, drawn among all."""

    def mutate(path: Path, rng: random.Random) -> None:
        from safetensors.torch import load, save

        tensors = load(path.read_bytes())
        change(tensors, rng.choice(sorted(tensors)))
        replace(path, save(tensors))

    return mutate


def _put(value: float) -> Callable[[dict[str, Any], str], None]:
    def change(tensors: dict[str, Any], name: str) -> None:
        tensors[name].view(-1)[0] = value

    return change


def _renamed(tensors: dict[str, Any], name: str) -> None:
    tensors[name + ".old"] = tensors.pop(name)


def _reshaped(tensors: dict[str, Any], name: str) -> None:
    tensors[name] = tensors[name].repeat(2, *[1] * (tensors[name].dim() - 1))


def _whole_numbers(tensors: dict[str, Any], name: str) -> None:
    import torch

    tensors[name] = tensors[name].to(torch.int32)


def _removed(tensors: dict[str, Any], name: str) -> None:
    del tensors[name]


def _vast_header(path: Path, rng: random.Random) -> None:
    replace(path, struct.pack("<Q", 2**62) + path.read_bytes()[8:])


def _pickle(path: Path, rng: random.Random) -> None:
    import pickle

    replace(path, pickle.dumps({"weights": [1.0]}))


WEIGHTS: dict[str, tuple[Mutation, bool | None]] = {
    "NaN": (_tensors(_put(float("nan"))), True),
    "infinite": (_tensors(_put(float("-inf"))), True),
    "a tensor renamed": (_tensors(_renamed), True),
    "a tensor of another shape": (_tensors(_reshaped), True),
    "a tensor of whole numbers": (_tensors(_whole_numbers), None),
    "a tensor removed": (_tensors(_removed), True),
    "a header of exabytes": (_vast_header, True),
    "a pickle": (_pickle, True),
}


def _config(*keys: str, value: Any) -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        config = json.loads(path.read_text("utf-8"))
        node = config
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = value
        replace(path, json.dumps(config).encode())

    return mutate


CONFIG: dict[str, tuple[Mutation, bool | None]] = {
    "ten million layers": (_config("parts", "llm", "layers", value=10_000_000), True),
    "a width of a billion": (_config("parts", "llm", "width", value=10**9), True),
    "a width that is text": (_config("parts", "llm", "width", value="x"), True),
    "a class of another role": (
        _config("parts", "encoder", "_target_", value="spinevl.models.connector.mlp.MLPConnector"),
        True,
    ),
    "a class of os": (_config("parts", "connector", "_target_", value="os.system"), True),
    "arguments that it lacks": (_config("parts", "encoder", "colour", value=1), True),
    "trusted code": (_config("parts", "llm", "trust_remote_code", value=True), None),
}


def _template(text: str) -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        replace(path, text.encode())

    return mutate


TEMPLATE: dict[str, tuple[Mutation, bool | None]] = {
    "a loop without end": (
        _template(
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
        ),
        True,
    ),
    "Python's insides": (
        _template("{{ messages.__class__.__mro__[1].__subclasses__() }}"),
        True,
    ),
    "no end of the answer": (
        _template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"),
        True,
    ),
    "broken": (_template("{% for m in messages %}{{ m"), True),
}
