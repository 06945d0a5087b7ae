"""A checkpoint's chat template gets little time and memory before it is used."""

from __future__ import annotations

import re
import time

import pytest

from spinevl.models.template_trial import excess_of
from spinevl.models.tokenizer import CHAT_TEMPLATE

LOOP = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
RECURSION = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
DOUBLING = (
    "{% set n = namespace(s='aaaaaaaaaaaaaaaa') %}"
    "{% for k in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}"
)


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE,
        "{% generation %}{{ messages[0]['content'] }}{% endgeneration %}",
        "{% for m in messages %}{{ m.content | tojson }}{% if loop.last %}{% break %}{% endif %}"
        "{% endfor %}",
        "{{ raise_exception('no system') }}",
        "{% broken",
        "{{ strftime_now('%d') }}{{ bos_token }}",
    ],
)
def test_templates_of_models_are_within_bounds(template: str) -> None:
    assert excess_of(template) is None


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LOOP, "seconds"),
        (RECURSION + "{{ f(60) }}", "seconds"),
        (DOUBLING, "memory|seconds"),  # whichever bound a busy machine meets first
        ("{{ 'a' * 10 ** 10 }}", "memory|seconds"),
        ("{% for a in range(90000) %}{{ messages[0].content }}{% endfor %}", "characters"),
    ],
)
def test_a_template_without_bounds_is_found(template: str, said: str) -> None:
    begun = time.monotonic()
    excess = excess_of(template)
    assert excess is not None
    assert re.search(said, excess)
    assert time.monotonic() - begun < 25
