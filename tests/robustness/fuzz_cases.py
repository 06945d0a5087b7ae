"""Which bad inputs are tried: a file and what happens to it, or an override, and a command."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fuzz_bytes import ANY_FILE, Mutation
from fuzz_json import ENCODINGS, SHAPES
from fuzz_pixels import IMAGES, NIFTI_GZIP, NIFTI_PLAIN, NPY
from fuzz_weights import CONFIG, TEMPLATE, WEIGHTS
from small_study import COMMANDS

Mutations = dict[str, tuple[Mutation, bool | None]]

JSON_FILE = ANY_FILE | ENCODINGS | SHAPES
# What is wrong with any wrong or absent value of these files.
STRICT = {"record twice": True, "key removed": True, "wrong value": True, "truncated": True}
JSONL = {name: one for name, one in JSON_FILE.items() if name not in ("other shape", "CRLF")}


def _strict(mutations: Mutations) -> Mutations:
    return {name: (one, STRICT.get(name, bad)) for name, (one, bad) in mutations.items()}


# Conversations take images of any size.
ANY_SIZE = {n: (m, None if n in ("other size", "one pixel") else b) for n, (m, b) in IMAGES.items()}

# A list of ids has no keys to repeat.
NO_OBJECTS = {"repeated key": (JSON_FILE["repeated key"][0], None)}
# What tokenizer_config.json says stands in tokenizer.json and the chat template, too.
UNREAD = ("missing", "a pipe", "broken link", "a folder", "a device", "other shape")
OPTIONAL = {n: (m, None if n in UNREAD else b) for n, (m, b) in (ANY_FILE | SHAPES).items()}

# (name in the table, file, command, what is done to the file)
FILES: list[tuple[str, str, str, Mutations]] = [
    ("labels", "labels.json", "doctor", _strict(JSON_FILE)),
    ("boxes", "boxes.json", "doctor", _strict(JSON_FILE)),
    ("submission", "answers.json", "doctor answers", _strict(JSON_FILE)),
    ("answers", "answers.json", "evaluate answers", _strict(JSON_FILE)),
    ("predictions", "predictions.jsonl", "evaluate predictions", JSONL),
    ("split", "train_ids.json", "doctor split", JSON_FILE | NO_OBJECTS),
    ("prompts", "prompts.json", "build", JSON_FILE),
    ("records", "records/zjppt_train.json", "doctor records", JSON_FILE),
    ("conversations", "talk.json", "doctor talk", JSON_FILE),
    ("images", "images/case-0/sag/6.png", "doctor", ANY_FILE | IMAGES),
    ("images", "files/a.png", "doctor talk", ANY_FILE | ANY_SIZE),
    ("volumes", "files/v.npy", "doctor volumes", ANY_FILE | NPY),
    ("volumes", "files/v.nii", "doctor volumes", ANY_FILE | NIFTI_PLAIN),
    ("volumes", "files/v.nii.gz", "doctor volumes", ANY_FILE | NIFTI_GZIP),
    ("weights", "checkpoint/model.safetensors", "predict", ANY_FILE | WEIGHTS),
    ("weights", "talker/model.safetensors", "export", ANY_FILE | WEIGHTS),
    ("model config", "checkpoint/config.json", "predict", JSON_FILE | CONFIG),
    ("model config", "talker/config.json", "predict talk", JSON_FILE | CONFIG),
    ("tokenizer", "talker/llm/tokenizer.json", "predict talk", ANY_FILE | SHAPES),
    ("tokenizer", "talker/llm/tokenizer_config.json", "predict talk", OPTIONAL),
    ("tokenizer", "llama/config.json", "doctor talk", ANY_FILE | SHAPES),
    ("chat template", "talker/llm/chat_template.jinja", "predict talk", ANY_FILE | TEMPLATE),
]

# Values that some key or other cannot take, as they are written on the command line.
VALUES = (
    *("null", "nan", "inf", "-1", "0", "1e999", "true", "[]", "{}", "[1,2]", "{a: 1}", "''", "x"),
    *("'a b'", "../x", "/etc/passwd", "'\x1b[31m'", "'a\nb'", "[null]", "[[1]]", "${nothing}"),
    *("${oc.env:NOT_SET_ANYWHERE}", "${.}", "???", "999999999999999999999", "'<b>'", "é"),
)


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        number: draws its random choices, with the seed.
        kind: its row in the table of counts.
        what: what is wrong with it, for the reader of a failure.
        command: the words after ``spinevl``.
        file, mutation: what is changed of the study; None where the command itself is wrong.
        bad: whether it must be refused, must be accepted, or None: either, in an orderly way.
    """

    number: int
    kind: str
    what: str
    command: tuple[str, ...]
    file: str | None = None
    mutation: Mutation | None = field(default=None, repr=False)
    bad: bool | None = None


def cases(count: int, *, seed: int) -> Iterator[Case]:
    """``count`` cases: every mutation of every file, and overrides drawn at random."""
    fixed = [
        (kind, file, command, name)
        for kind, file, command, mutations in FILES
        for name in mutations
    ]
    rng = random.Random(seed)
    rng.shuffle(fixed)
    tables = {(kind, file, command): mutations for kind, file, command, mutations in FILES}
    keys = {
        verb: _keys(verb) for verb in ("doctor", "predict", "evaluate answers", "build", "train")
    }
    for number in range(count):
        if number % 3 == 2 or not fixed:
            verb = rng.choice(list(keys))
            words = _override(rng, keys[verb])
            yield Case(number, "overrides", f"{verb}: {words}", (*COMMANDS[verb], *words))
            continue
        kind, file, command, name = fixed.pop()
        if number % 3 == 0:  # what is drawn at random is worth a second and a third trial
            again = [one for one in SHAPES if one in tables[kind, file, command]]
            fixed.extend((kind, file, command, one) for one in again[:1])
        mutation, bad = tables[kind, file, command][name]
        what = f"{file}: {name}"
        yield Case(number, kind, what, tuple(COMMANDS[command]), file, mutation, bad)


def _keys(verb: str) -> list[str]:
    """The dotted keys of what a verb's command composes to."""
    from omegaconf import OmegaConf

    from spinevl.config.compose import compose

    name, *overrides = COMMANDS[verb]
    config: Any = OmegaConf.to_container(compose(name, overrides), resolve=False)

    def walk(node: Any, at: str) -> Iterator[str]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from walk(value, f"{at}.{key}" if at else str(key))
        elif not at.startswith(("cache_dir", "hydra")):
            yield at

    return list(walk(config, ""))


def _override(rng: random.Random, keys: list[str]) -> tuple[str, ...]:
    key = rng.choice(keys)
    if rng.random() < 0.1:
        return (f"~{key}",)
    if rng.random() < 0.1:
        key = key[:-1] + rng.choice("abcxyz")
    sign = rng.choice(["", "", "", "", "+", "++"])
    return (f"{sign}{key}={rng.choice(VALUES)}",)
