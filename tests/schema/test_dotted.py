"""Nested mappings by dotted keys."""

from __future__ import annotations

from spinevl.schema.dotted import leaves


def test_every_value_has_its_key_and_an_empty_mapping_is_a_value() -> None:
    values = {"optim": {"lr": {"llm": 1e-4}, "betas": [0.9, 0.95]}, "debug": {}, "seed": 0}
    assert dict(leaves(values)) == {
        "optim.lr.llm": 1e-4,
        "optim.betas": [0.9, 0.95],
        "debug": {},
        "seed": 0,
    }
    assert dict(leaves({"a": {"b": 1}}, "data files")) == {"data files.a.b": 1}
    assert dict(leaves({"a": {"b": 1}}, between="/")) == {"a/b": 1}
