"""Values that no verb can run with: every key, every verb, all at once."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from spinevl.cli.config_errors import explain
from spinevl.config.annotations import alternatives, expected
from spinevl.config.check import from_plain, problems, validate
from spinevl.config.compose import MOVED_KEYS, compose
from spinevl.config.keys import FromZero, Interval, Key, key_of
from spinevl.config.options import (
    SCHEMAS,
    OptimOptions,
    PromptOptions,
    Schedule,
    TrainerOptions,
    TuningOptions,
)
from spinevl.config.resolve import resolved
from spinevl.data.split import FilesSplit, HeadSplit, KFoldSplit, StratifiedSplit
from spinevl.schema.errors import UserError

VERBS = tuple(SCHEMAS)
SPLITS = {
    "head": HeadSplit,
    "stratified": StratifiedSplit,
    "kfold": KFoldSplit,
    "files": FilesSplit,
}


def refused(verb: str, *overrides: str, own: Path | None = None) -> list[str]:
    """The lines with which a verb refuses some overrides; empty where it takes them."""
    flags = [f"--config-dir={own}"] if own else []
    try:
        compose(verb, overrides, config_dir=own)
    except Exception as error:
        return list(explain(error, verb=verb, arguments=[*flags, *overrides]))
    return []


def leaves(schema: type[Any], at: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, annotation, Key) of every value of a dataclass."""
    hints, found = get_type_hints(schema), []
    for one in fields(schema):
        hint = hints[one.name]
        inner = [kind for kind in alternatives(hint) if is_dataclass(kind)]
        if inner and PromptOptions not in inner:
            found += leaves(inner[0], f"{at}{one.name}.")
        else:
            found.append((at + one.name, hint, key_of(one)))
    return found


def bad_values(hint: Any, about: Key) -> list[Any]:
    """What a key must not take, by its annotation and its limits."""
    kinds = alternatives(hint)
    values: list[Any] = []
    if type(None) not in kinds and hint is not Any:
        values.append(None)
    if int in kinds or float in kinds:
        values += ["abc", math.nan, math.inf, -math.inf, [1], True]
        values += [1.5] if int in kinds else []
        values += [about.min - 1] if about.min is not None else []
        values += [about.max + 1] if about.max is not None else []
        values += [one for one in (about.above, about.below) if one is not None]
    if bool in kinds:
        values += ["maybe", 2, [True]]
    if about.choices or any(isinstance(kind, type) and issubclass(kind, Enum) for kind in kinds):
        values += ["no_such_choice", [1], 3]
    if list[float] in kinds or list[int] in kinds:
        values += [["a"], 5, {"a": 1}, [None], [math.nan, 0], [0, math.inf], [-1, 0]]
    if about.length:
        values += [[about.min] * (about.length + 1), [about.min] * (about.length - 1), []]
    if about.nonempty:
        values.append([])
    if about.unique:
        values.append([3, 3])
    if about.pattern:
        values += ["a/b", ""]
    return values


LOGGING = ("train", "run", "doctor", "fetch")


def replaced(plain: Any, dotted: str, value: Any) -> Any:
    """A copy of nested values with another one at a dotted key."""
    name, _, rest = dotted.partition(".")
    return {**plain, name: replaced(plain[name], rest, value) if rest else value}


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_of_every_verb_refuses_what_it_does_not_take(verb: str) -> None:
    chosen = ["logger=[wandb,tensorboard]"] if verb in LOGGING else []
    plain, unresolved = resolved(compose(verb, chosen))
    assert not unresolved
    assert problems(SCHEMAS[verb], plain) == []
    tried = 0
    for dotted, hint, about in leaves(SCHEMAS[verb]):
        for value in bad_values(hint, about):
            lines = problems(SCHEMAS[verb], replaced(plain, dotted, value))
            assert len(lines) == 1, (dotted, value, lines)
            assert dotted in lines[0]
            assert "\n" not in lines[0]
            tried += 1
    assert tried > {"train": 200, "run": 200, "doctor": 200}.get(verb, 0)


REFUSED = [
    ("~trainer.batch_patients", "trainer.batch_patients was removed and is needed"),
    ("~optim.lr.llm", "optim.lr.llm was removed and is needed"),
    ("~seed", "seed was removed and is needed"),
    ("~augment", "augment was removed and is needed"),
    ("~encoder", "encoder is not chosen: encoder=clip|"),
    ("~encoder._target_", "encoder._target_ is missing"),
    ("trainer=null", "trainer=null: expected an option, trainer=auto"),
    ("optim.betas=0", "optim.betas=0: expected a list: 'optim.betas=[0.9,0.95]'"),
    ("optim.betas=[0.9,1.5]", "optim.betas=[0.9,1.5]: expected a list of 2 finite numbers"),
    ("optim.lr.llm=-1", "optim.lr.llm=-1.0: expected a finite number, 0 to 1"),
    ("trainer.num_workers=100000", "trainer.num_workers=100000: expected a whole number, 0 to"),
    ("tuning.connector=lora", "tuning.connector=lora: expected frozen, full"),
    ("tuning.lora.targets=[]", "tuning.lora.targets=[]: expected attention, mlp, null or a"),
    ("tuning.lora.targets=attn", "tuning.lora.targets=attn: expected attention, mlp, null"),
    ("trainer.max_epochs=${trainer.max_epochs}", "trainer.max_epochs=${trainer.max_epochs}: "),
    ("cache_dir=${no.such.key}", "cache_dir=${no.such.key}: Interpolation key 'no.such.key'"),
    ("data.labels=${oc.env:NOT_SET_X}/l.json", "data.labels=${oc.env:NOT_SET_X}/l.json: "),
    ("seed=${oc.env:SEED_IN_WORDS}", "seed=${oc.env:SEED_IN_WORDS}: "),
    ("optim.lr.llm=${seed_}", "optim.lr.llm=${seed_}: Interpolation key 'seed_' not found"),
    ("data.n_train=x", "data.n_train=x: expected a whole number"),
    ("data.seed=null", "data.seed=null: expected a whole number"),
    ("data=null", "data=null: expected an option, data=cervai|conversations|phantom"),
    ("encoder.dim=abc", "encoder.dim=abc: expected a whole number"),
    ("encoder.widths=[32,x]", "encoder.widths=[32,x]: expected a list of 3 whole numbers"),
    ("encoder.dim=0", "encoder.dim=0: expected a whole number, 1 or more"),
    (
        "encoder.widths=[32,0]",
        "encoder.widths=[32,0]: expected a list of 3 whole numbers, 1 or more",
    ),
    ("llm.layers=-1", "llm.layers=-1: expected a whole number, 1 or more"),
    ("connector.layers=0", "connector.layers=0: expected a whole number, 1 or more"),
    ("llm.conversation=talk", "llm.conversation=talk: expected "),
    ("task.qd.weight=nan", "task.qd.weight=nan: expected a finite number"),
    ("task.qd.weight=1e39", "task.qd.weight=1e+39: expected a finite number"),  # in float32
    (f"task.qd.weight=1{'0' * 400}", f"task.qd.weight=1{'0' * 400}: expected a finite number"),
    ("trainer.clip_norm=0", "trainer.clip_norm=0.0: expected a finite number or null, more than 0"),
    ("split.n_train=0", "split.n_train=0: expected a whole number or null, 1 or more"),
    ("split.seed=-1", "split.seed=-1: expected a whole number, 0 to 4294967295"),
]


@pytest.mark.parametrize(
    ("verb", "override", "said"),
    [("doctor", *case) for case in REFUSED]
    + [("train", *case) for case in REFUSED[::4]]
    + [("run", *case) for case in REFUSED[2::4]],
)
def test_what_a_training_cannot_use_is_refused_alike_in_every_verb(
    verb: str, override: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEED_IN_WORDS", "abc")
    (line,) = refused(verb, override)
    assert line.startswith(said)


@pytest.mark.parametrize(
    "override",
    [
        "optim.lr.llm=${optim.lr.encoder}",
        "data.seed=${seed}",
        "trainer.batch_patients=${trainer.max_epochs}",
        "data.labels=${hydra:runtime.output_dir}/labels.json",
        "trainer.clip_norm=null",
        "trainer.precision=32",
        "optim.betas=[0,0.999]",
        "tuning.lora.targets=[q_proj]",
        "tuning.lora.targets=mlp",
        "sag_image=[5,7]",
        "trainer.num_workers=256",
    ],
)
def test_interpolations_and_bounds_that_have_a_value_are_taken(override: str) -> None:
    assert refused("run", override) == []


@pytest.mark.parametrize(("old", "new"), list(MOVED_KEYS.items()))
def test_a_key_that_moved_is_one_line_with_its_new_name(old: str, new: str) -> None:
    (line,) = refused("train", f"{old}=0")
    assert line == f"{old} is called {new} now: write {new}=VALUE"


@pytest.mark.parametrize("prefix", ["+", "++"])
def test_a_key_that_moved_is_not_added_either(prefix: str) -> None:
    """As a user's file may have it too."""
    lines = refused("train", *(f"{prefix}{old}=0" for old in MOVED_KEYS))
    assert lines == [
        f"{old} is called {new} now: write {new}=VALUE" for old, new in MOVED_KEYS.items()
    ]


def test_all_problems_are_listed_together() -> None:
    wrong = ["seed=a", "trainer.max_epochs=0", "optim.lr.llm=-1", "optim.betas=[0.9]"]
    wrong += [
        "data.n_train=x",
        "trainer.gain=1",
        "encoder=tniy",
        "split.seed=null",
        "sag_image=[5,5]",
    ]
    wrong += ["cache_dir=${nowhere}"]
    lines = refused("doctor", *wrong)
    assert len(lines) == len(wrong)
    for one in wrong:
        assert any(line.startswith(one.partition("=")[0]) for line in lines), one


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "trainer: {max_epochs: x}",
            "experiment/mine: trainer.max_epochs=x: expected a whole",
        ),
        ("trainer: {shift_px: 0}", "experiment/mine: trainer.shift_px is called augment.shift_px"),
        ("trainer: {epochs: 0}", "experiment/mine: unknown key 'trainer.epochs'; did you mean"),
        ("trainr: {max_epochs: 1}", "experiment/mine: unknown key 'trainr'; did you mean trainer?"),
        ("tuning: null", "experiment/mine: tuning=null: expected a group of keys"),
        (
            "optim: {betas: 3}",
            "experiment/mine: optim.betas=3: expected a list of 2",
        ),
        ("optim: {betas: [1, 2]}", "optim.betas=[1.0,2.0]: expected a list of 2 finite numbers"),
    ],
)
def test_a_users_file_is_held_to_the_same_types(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    (line,) = refused("run", "experiment=mine", own=tmp_path)
    assert line.startswith(said)


def test_a_users_option_says_only_what_differs(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "short.yaml").write_text("max_epochs: 2\n")
    cfg = compose("run", ["trainer=short", "trainer.accumulate=3"], config_dir=tmp_path)
    assert (cfg.trainer.max_epochs, cfg.trainer.accumulate, cfg.trainer.batch_patients) == (2, 3, 4)


def test_splits_are_checked_with_their_folds() -> None:
    assert refused("build", "split=kfold", "split.fold=4") == []
    (line,) = refused("build", "split=kfold", "split.fold=5")
    assert line.startswith("split.fold=5: expected 0 to 4")
    (line,) = refused("predict", "split=head", "split.n_train=-3")
    assert line.startswith("split.n_train=-3: ")
    with pytest.raises(UserError, match=r"split.n_folds=1: expected"):
        KFoldSplit(n_folds=1)


def test_every_key_has_help() -> None:
    schemas = [*SCHEMAS.values(), *SPLITS.values()]
    schemas += [kind for one in SCHEMAS.values() for kind in _nested(one)]
    for schema, one in itertools.chain.from_iterable(
        ((schema, one) for one in fields(schema)) for schema in schemas
    ):
        about = key_of(one)
        assert about is not None, f"{schema.__name__}.{one.name} has no help"
        assert len(about.help) > 5, f"{schema.__name__}.{one.name}"


def _nested(schema: type[Any]) -> list[type[Any]]:
    found = [
        kind
        for hint in get_type_hints(schema).values()
        for kind in alternatives(hint)
        if is_dataclass(kind)
    ]
    return [*found, *(inner for one in found for inner in _nested(one))]  # type: ignore[arg-type]


def test_defaults_keep_their_own_limits() -> None:
    for schema in [kind for one in SCHEMAS.values() for kind in _nested(one)]:
        validate(schema())
    for schema in (HeadSplit, StratifiedSplit, KFoldSplit):
        validate(schema())


def test_options_are_read_from_plain_values_and_checked_in_any_process() -> None:
    optim = from_plain(OptimOptions, {"lr": {"llm": 2e-5}, "schedule": "constant"}, at="optim")
    assert optim.lr.llm == 2e-5
    assert optim.lr.encoder == 1e-3
    assert optim.schedule is Schedule.constant
    with pytest.raises(UserError) as caught:
        from_plain(TrainerOptions, {"max_epochs": 0, "packing": "x", "foo": 1}, at="trainer")
    assert len(caught.value.problems) == 3
    optim.lr.llm = math.nan
    with pytest.raises(UserError, match=r"optim.lr.llm=nan: expected"):
        validate(optim, at="optim")


def test_relations_between_keys() -> None:
    frozen = {"encoder": "frozen", "connector": "frozen", "llm": "frozen"}
    (line,) = problems(TuningOptions, frozen, at="tuning", partial=True)
    assert line.startswith("tuning.llm=frozen: expected full or lora")
    assert problems(TuningOptions, {**frozen, "llm": "lora"}, partial=True) == []


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number or null"),
        (tuple[float, float] | None, "a list of 2 finite numbers or null"),
        (tuple[int, ...], "a list of whole numbers"),
        (Schedule, "cosine, constant"),
        (bool, "true or false"),
        (dict[str, Any], "a group of keys"),
        (dict[str, FromZero], "a group of finite numbers, 0 or more"),
        (Interval | None, "a list of 2 finite numbers, in rising order or null"),
    ],
)
def test_an_annotation_in_words(hint: Any, words: str) -> None:
    assert expected(hint) == words
