"""What the words of a command line trust, and what a config may not."""

from __future__ import annotations

from typing import Any

import pytest

from spinevl.build.trust import NOTHING, Trust
from spinevl.schema.errors import UserError


@pytest.mark.parametrize(
    ("words", "trust"),
    [
        ([], NOTHING),
        (["seed=1", "--config-dir", "c", "-m"], NOTHING),
        (["trusted_targets=[a]"], Trust(("a",))),
        (["+trusted_targets=[a, b.c]"], Trust(("a", "b.c"))),
        (["++trusted_targets=['a',\"b\"]"], Trust(("a", "b"))),
        (["trusted_targets=[a]", "trusted_targets=[b]"], Trust(("b",))),
        (["trusted_targets=[]"], NOTHING),
        (["llm.trust_remote_code=true"], Trust(remote_code=True)),
        (["+llm.trust_remote_code=True"], Trust(remote_code=True)),
        (["llm.trust_remote_code=false"], NOTHING),
        (["encoder.trust_remote_code=true"], NOTHING),
        (["data.trusted_targets=[a]"], NOTHING),
        (["predict.vllm_python=/a b/bin/python"], Trust(vllm_python="/a b/bin/python")),
        (["++predict.vllm_python='~/p'"], Trust(vllm_python="~/p")),
        (['predict.vllm_python="p"', "predict.vllm_python=null"], NOTHING),
        (["vllm_python=p", "run.predict.vllm_python=p"], NOTHING),
    ],
)
def test_trust_is_read_from_words(words: list[str], trust: Trust) -> None:
    assert Trust.from_words(words) == trust
    assert Trust.from_words(trust.to_words()) == trust


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trusted_targets=a", r"expected a list of packages: 'trusted_targets=\[mypkg\]'"),
        ("trusted_targets=[a-b]", "'a-b' is no package name"),
        ("trusted_targets=[a],[b]", "is no package name"),
        ("trusted_targets=[${x}]", "is no package name"),
        ("trusted_targets=${x}", "expected a list of packages"),
        ("llm.trust_remote_code=${x}", "expected true or false"),
        ("llm.trust_remote_code=true,false", "expected true or false"),
        ("predict.vllm_python=", "expected the path"),
        ("predict.vllm_python=a,b", "expected the path"),
        ("predict.vllm_python=${oc.env:HOME}/p", "expected the path"),
        ("predict.vllm_python='${x}'", "expected the path"),
        ("predict.vllm_python='a\\'b'", "expected the path"),
        ("predict.vllm_python=choice(a)", "expected the path"),
    ],
)
def test_words_that_leave_trust_open_are_refused(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Trust.from_words([word])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"trusted_targets": ["a", "posix"]}, r"^trusted_targets: posix comes from a config file"),
        ({"trusted_targets": "${x}"}, r"^trusted_targets: \$\{x\} comes from a config file"),
        ({"trusted_targets": ["${x}"]}, r"^trusted_targets: \$\{x\} comes from a config file"),
        (
            {"llm": {"trust_remote_code": True}},
            "^llm.trust_remote_code=True: only",
        ),
        ({"llm": {"trust_remote_code": "${x}"}}, "^llm.trust_remote_code="),
        ({"x": [{"y": {"trust_remote_code": 1}}]}, r"^x\[0\].y.trust_remote_code=1"),
        ({"predict": {"vllm_python": "/p"}}, r"^predict\.vllm_python=/p: only the command line"),
        ({"predict": {"vllm_python": "${x}"}}, r"^predict\.vllm_python=\$\{x\}: only"),
        ({"a": {"vllm_python": "p"}}, r"^a\.vllm_python=p: only"),
    ],
)
def test_a_config_cannot_say_what_is_trusted(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Trust(("a",)).refuse_untold(config)
    assert "\n" not in str(caught.value)


def test_what_the_words_say_may_stand_in_the_config() -> None:
    trust = Trust(("a", "b"), remote_code=True, vllm_python="p")
    trust.refuse_untold({"predict": {"vllm_python": "p"}})
    NOTHING.refuse_untold({"predict": {"vllm_python": None}})
    trust.refuse_untold({"trusted_targets": ["b"], "llm": {"trust_remote_code": True}})
    NOTHING.refuse_untold({"trusted_targets": [], "llm": {"trust_remote_code": False}})
    with pytest.raises(UserError, match=r"encoder.trust_remote_code=True"):
        trust.refuse_untold({"encoder": {"trust_remote_code": True}})
