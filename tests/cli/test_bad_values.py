"""Any key of any verb with any value: a line each, or taken; doctor refuses what train refuses."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from spinevl.cli.config_errors import explain
from spinevl.config.compose import check, compose
from spinevl.config.options import SCHEMAS
from spinevl.config.resolve import resolved
from spinevl.schema.errors import UserError

WORDS = [
    *("null", "nan", "inf", "-inf", "-1", "0", "1e400", "1" + "0" * 30, "0.5", "true", "x", "''"),
    *("[]", "[1]", "[null]", "[nan,1]", "[[1]]", "[a,b,c]", "{}", "{a: 1}", "???", "'${seed}'"),
    *("'${nowhere}'", "'${oc.env:NOT_SET_X}'", "'${oc.env:HOME}'", "'~/x'", "'a\\nb'"),
]
VALUES: list[Any] = [
    *(None, math.nan, math.inf, -math.inf, -1, 0, 10**30, 0.5, True, "x", "", "a\nb", "~/x"),
    *([], [1], [None], [math.nan, 1], [[1]], ["a", "b"], {}, {"a": 1}, "${seed}", "${nowhere}"),
]


def leaves(node: Mapping[str, Any], at: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield f"{at}{name}"
        if isinstance(value, Mapping):
            yield from leaves(value, f"{at}{name}.")


@cache
def composed(verb: str) -> DictConfig:
    groups = ["data=phantom", "split=kfold", "task=[qd]", "prompts=en"] if verb == "predict" else []
    return compose(verb, groups)


@cache
def keys(verb: str) -> tuple[str, ...]:
    return tuple(leaves(resolved(composed(verb))[0]))


def are_lines(lines: tuple[str, ...]) -> bool:
    return all(one.strip() and "\n" not in one and "object at 0x" not in one for one in lines)


def problems_of(cfg: DictConfig) -> tuple[str, ...]:
    try:
        check(cfg)
    except UserError as error:
        return error.problems
    return ()


def told(verb: str, override: str) -> tuple[str, ...]:
    """The lines with which a verb refuses an override; none where it takes it. What a verb lists
    as valid is its own."""
    try:
        cfg = compose(verb, [override], complete=False)
        check(cfg, overrides=[override])
    except Exception as error:  # Hydra's, or ours
        lines = explain(error, verb=verb, arguments=[override])
        assert are_lines(lines)
        return tuple(one.partition("; did you mean")[0].partition("; valid:")[0] for one in lines)
    return ()


@pytest.mark.parametrize("verb", SCHEMAS)
def test_a_config_with_any_value_is_taken_or_refused_in_lines(verb: str) -> None:
    """The config as a user's YAML file may make it, past what Hydra says of overrides."""
    rng = random.Random(verb)
    whole = composed(verb)
    for key in keys(verb):
        value = rng.choice(VALUES)
        cfg = whole.copy()
        with read_write(cfg), open_dict(cfg):
            try:
                OmegaConf.update(cfg, key, value, merge=False)
            except OmegaConfBaseException:  # refused while it composes, see below
                continue
        assert are_lines(problems_of(cfg)), (key, value)


@pytest.mark.parametrize("verb", ["train", "predict", "evaluate", "export"])
@settings(max_examples=4, derandomize=True, deadline=None, phases=[Phase.generate])
@given(data=st.data())
def test_an_override_is_taken_or_refused_in_lines(verb: str, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(keys(verb)))
    sign = data.draw(st.sampled_from(["", "+", "++", "~"]))
    override = f"~{key}" if sign == "~" else f"{sign}{key}={data.draw(st.sampled_from(WORDS))}"
    lines = told(verb, override)
    if verb == "train" and not key.startswith("suffix"):
        assert told("doctor", override) == lines


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("data={a: 1}", "data: expected an option, data=cervai|"),
        ("optim=[1]", "optim=[1]: expected an option, optim="),
        ("task=[3]", "task=[3]: expected an option, task="),
        ("encoder.dim={a: 1}", "encoder.dim"),
        ("trainer.max_epochs='${trainer.max_epochs}'", "trainer.max_epochs"),
    ],
)
def test_odd_values_are_named_with_their_key(override: str, line: str) -> None:
    (found,) = told("train", override)
    assert found.startswith(line)


@pytest.mark.parametrize("verb", ["predict", "report"])
@pytest.mark.parametrize(
    ("override", "group"),
    [
        ("prompts.templates.qd=x", "prompts"),
        ("task.qd.weight=3", "task"),
        ("split.seed=3", "split"),
    ],
)
def test_a_key_of_what_a_checkpoint_gives_is_told_with_its_options(
    verb: str, override: str, group: str
) -> None:
    (found,) = told(verb, override)
    assert found.startswith(f"{override}: {verb} takes {group} from the checkpoint; ")
    assert f"choose it: {group}=" in found
