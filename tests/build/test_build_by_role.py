"""What is built for a role, and what is refused before anything is made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from spinevl.build.allowlist import OURS, Allowed
from spinevl.build.build import build, build_stored, check_stored
from spinevl.build.roles import is_role, slot_of
from spinevl.build.signature import signature_of
from spinevl.build.trust import Trust
from spinevl.data.split import HeadSplit, Splitter
from spinevl.models.connector.base import Connector
from spinevl.models.encoder.base import Encoder
from spinevl.models.encoder.slices import SliceEncoder
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import CausalLM
from spinevl.schema.cohort import DataSource
from spinevl.schema.errors import UserError
from spinevl.schema.task import Task
from spinevl.sources.cervai import CervAISource
from spinevl.sources.conversations import ConversationSource

BOXES = {"_target_": "spinevl.schema.task.Task", "name": "x", "title": "t", "metric": "mean_iou"}
TINY = {"_target_": "spinevl.models.encoder.tiny.TinyEncoder", "dim": 8}
MLP = {"_target_": "spinevl.models.connector.mlp.MLPConnector", "_partial_": True}
SIZES = {"in_dim": 4, "out_dim": 2, "in_tokens": 4, "in_grid": (2, 2)}

OWN = """
import os
from collections.abc import Mapping, Sequence
from torch import nn
from torch.nn import Linear
from spinevl.models.encoder.base import Encoder
from spinevl.models.encoder.tiny import TinyEncoder
from spinevl.models.llm import CausalLM

MADE = []

class Both(Encoder):
    def __init__(
        self,
        *,
        inner: "Encoder | None" = None,
        others: Sequence[Encoder] = (),
        named: Mapping[str, Encoder] | None = None,
        options: dict | None = None,
        llm: CausalLM | None = None,
    ):
        super().__init__()
        MADE.append(self)
        self.inner, self.others, self.named, self.options = inner, others, named, options
    def transform(self, image): ...
    def forward(self, pixel_values): ...

class Asking(TinyEncoder):
    def __init__(self, *, trust_remote_code: bool = False, **options):
        super().__init__(**options)
        self.asked = trust_remote_code

class Model(CausalLM):
    def __init__(self, *, trust_remote_code: bool = True):
        nn.Module.__init__(self)
        self.asked = trust_remote_code

class Liar(Encoder):
    def __new__(cls):
        return 3
    def transform(self, image): ...
    def forward(self, pixel_values): ...

class Source:
    def load(self, **options): ...
    def decode(self, image): ...

def function(): ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's module with parts of their own."""
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    import own_parts

    return own_parts


TRUSTED = Trust(("own_parts",))


def test_an_object_is_built_for_its_role_with_the_sizes_that_the_caller_knows() -> None:
    assert build(BOXES, Task, title="u").title == "u"
    assert isinstance(build(TINY, Encoder), TinyEncoder)
    assert build(MLP, Connector, **SIZES).tokens == 4  # _partial_ means nothing
    assert build({**MLP, "in_dim": 99}, Connector, **SIZES).connector[0].in_features == 4


@pytest.mark.parametrize(
    ("node", "role"),
    [
        (TINY, Connector),
        (TINY, Task),
        (BOXES, Encoder),
        ({"_target_": "spinevl.sources.cervai.CervAISource"}, ConversationSource),
        ({"_target_": "spinevl.sources.conversations.ConversationSource"}, DataSource),
        ({"_target_": "spinevl.data.split.Split"}, Splitter),
        ({"_target_": "spinevl.models.encoder.tower.Tower"}, Encoder),
    ],
)
def test_another_role_is_refused(node: Any, role: type) -> None:
    for make in (build, build_stored):
        with pytest.raises(UserError, match=r"^part: spinevl\..* is not an? "):
            make(node, role, where="part")


@pytest.mark.parametrize(
    "target", ["spinevl.models.encoder.base.Encoder", "spinevl.models.encoder.tower.TowerEncoder"]
)
def test_an_abstract_class_is_refused(target: str) -> None:
    with pytest.raises(UserError, match="is an abstract class"):
        build({"_target_": target}, Encoder)
    with pytest.raises(UserError, match="is an abstract class"):
        build({"_target_": "spinevl.models.llm.CausalLM"}, CausalLM)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", r"os.system is not allowed; if you trust it, add 'trusted_targets=\[os\]'"),
        ("torch.load", "not allowed"),
        ("torch.optim.AdamW", "not allowed"),
        ("spinevl.config.tasks.official_tasks", "not part of a model"),
        ("spinevl.stages.run.main", "not part of a model"),
        ("spinevl.io.files.os.system", "not part of a model"),
        ("spinevlx.models.A", "not allowed"),
        ("spinevl.models.llm.os.system", "nothing to build is called"),
        ("spinevl.models.llm.Path", "is really pathlib.Path, which is not allowed"),
        ("spinevl.models.tokenizer.learn", "is not a class"),
        ("spinevl.models.encoder.tiny.TinyEncoder.__init__", "not the dotted name of a public"),
        ("spinevl.models._private.A", "not the dotted name of a public"),
        ("spinevl", "not the dotted name of a public"),
        ("${x}", "not the dotted name of a public"),
        ("spinevl.data.nothing.Here", "nothing to build is called"),
        ("spinevl.models.encoder.base.FIXED_BATCH", "is not a class"),
        (
            "pytorch_lightning.loggers.CSVLogger",
            r"not allowed; .*trusted_targets=\[pytorch_lightning\]",
        ),
        (3, "not the dotted name of a public"),
        (["os.system"], "not the dotted name of a public"),
    ],
)
def test_other_targets_are_refused(target: Any, message: str) -> None:
    for make in (build, build_stored):
        with pytest.raises(UserError, match=message):
            make({"_target_": target}, Encoder)


def test_names_are_judged_before_anything_is_imported(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "tripwire.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    nested = {**TINY, "widths": [{"x": {"_target_": "tripwire.A"}}]}
    with pytest.raises(UserError, match=r"^part.widths\[0\].x: _target_ tripwire.A is not allowed"):
        build(nested, Encoder, where="part")
    both = {"_target_": "posix.system", "x": {"_target_": "tripwire.A"}}
    with pytest.raises(UserError) as caught:
        build(both, Encoder)
    assert len(caught.value.problems) == 2


def test_a_node_within_a_node_is_built_only_where_the_signature_asks_for_a_role(own: Any) -> None:
    node = {
        "_target_": "own_parts.Both",
        "inner": TINY,
        "others": [TINY, {"_target_": "own_parts.Both", "inner": TINY}],
        "named": {"a": TINY},
        "options": {"_partial": 1, "text": "${x}"},
    }
    made: Any = build(node, Encoder, trust=TRUSTED)
    assert isinstance(made.inner, TinyEncoder)
    assert isinstance(made.others[1].inner, TinyEncoder)
    assert isinstance(made.named["a"], TinyEncoder)
    assert made.options == {"_partial": 1, "text": "${x}"}  # text stays text
    assert build_stored(node, Encoder, allowed=Allowed(("own_parts",))).inner is not None


@pytest.mark.parametrize(
    ("argument", "place"),
    [
        ({"options": TINY}, "part.options"),
        ({"options": {"a": [TINY]}}, r"part.options.a\[0\]"),
        ({"inner": [TINY]}, r"part.inner\[0\]"),
        ({"inner": {"a": TINY}}, "part.inner.a"),
        ({"others": TINY}, "part.others"),
        ({"named": TINY}, "part.named"),
        ({"inner": {**TINY, "widths": [TINY]}}, r"part.inner.widths\[0\]"),
        ({"inner": BOXES}, "part.inner"),
        ({"others": [[TINY]]}, r"part.others\[0\]"),
    ],
)
def test_a_node_anywhere_else_is_refused_before_anything_is_made(
    own: Any, argument: dict[str, Any], place: str
) -> None:
    with pytest.raises(UserError, match=f"^{place}: "):
        build({"_target_": "own_parts.Both", **argument}, Encoder, trust=TRUSTED, where="part")
    assert own.MADE == []


def test_trust_is_by_prefix_and_by_where_a_thing_is_defined(own: Any) -> None:
    node = {"_target_": "own_parts.Both"}
    with pytest.raises(UserError, match=r"trusted_targets=\[own_parts\]"):
        build(node, Encoder)
    for trusted in ("own_parts", "own_parts.Both"):
        assert type(build(node, Encoder, trust=Trust((trusted,)))) is own.Both
    with pytest.raises(UserError, match="not allowed"):
        build(node, Encoder, trust=Trust(("own",)))
    with pytest.raises(UserError, match="nothing to build is called"):
        build({"_target_": "own_parts.os.system"}, Encoder, trust=TRUSTED)
    with pytest.raises(UserError, match="is really torch"):
        build({"_target_": "own_parts.Linear"}, Encoder, trust=TRUSTED)
    with pytest.raises(UserError, match="is not a class"):
        build({"_target_": "own_parts.function"}, Encoder, trust=TRUSTED)
    # what a user's module takes from ours is ours
    assert isinstance(build({"_target_": "own_parts.TinyEncoder"}, Encoder, trust=TRUSTED), Encoder)


def test_a_protocol_is_played_by_its_methods(own: Any) -> None:
    source: Any = build({"_target_": "own_parts.Source"}, DataSource, trust=TRUSTED)
    assert isinstance(source, own.Source)
    assert isinstance(build({"_target_": "spinevl.data.split.HeadSplit"}, Splitter), HeadSplit)


def test_the_object_itself_is_checked_too(own: Any) -> None:
    with pytest.raises(UserError, match="Liar did not make an encoder"):
        build({"_target_": "own_parts.Liar"}, Encoder, trust=TRUSTED)


def test_remote_code_is_a_matter_of_the_command_line_alone(own: Any) -> None:
    allowed = Trust(("own_parts",), remote_code=True)
    model: dict[str, Any] = {"_target_": "own_parts.Model"}
    asking = {"_target_": "own_parts.Asking", "trust_remote_code": True}
    for value in (True, False, None):
        told = {**model, "trust_remote_code": value}
        made: Any = build(told, CausalLM, trust=allowed)
        assert made.asked is True
        stored: Any = build_stored(told, CausalLM, allowed=allowed.allowed)
        assert stored.asked is False
    with pytest.raises(UserError, match=r"llm.trust_remote_code=true"):
        build({**model, "trust_remote_code": True}, CausalLM, trust=TRUSTED, where="llm")
    default: Any = build(model, CausalLM, trust=TRUSTED)
    assert default.asked is False
    with pytest.raises(UserError, match=r"^part.trust_remote_code=True: only the command line"):
        build(asking, Encoder, trust=allowed, where="part")
    harmless: Any = build_stored(asking, Encoder, allowed=allowed.allowed)
    assert harmless.asked is False
    nested = {"_target_": "own_parts.Both", "llm": {**model, "trust_remote_code": True}}
    with pytest.raises(UserError, match=r"^llm.trust_remote_code=True"):
        build(nested, Encoder, trust=allowed)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"_args_": [1]}, "part: _args_ is not supported"),
        ({"_recursive_": False}, "part: _recursive_ is not supported"),
        ({"_convert_": "object"}, "part: _convert_ is not supported"),
        ({"_partial_": "${x}"}, r"part: _partial_=\$\{x\}: expected true or false"),
        ({"nam": 1}, r"part: .*TinyEncoder does not take nam; it takes image_size, widths"),
        ({"image_size": 5}, "part: encoder.image_size=5 gives a feature map"),
    ],
)
def test_arguments_are_checked_in_one_line(extra: dict[str, Any], message: str) -> None:
    for make in (build, build_stored):
        with pytest.raises(UserError, match=f"^{message}"):
            make({**TINY, **extra}, Encoder, where="part")


def test_what_is_done_anyway_may_be_said() -> None:
    build({**TINY, "_args_": [], "_recursive_": True, "_convert_": "all"}, Encoder)


def test_missing_arguments_are_named() -> None:
    with pytest.raises(UserError, match="needs in_dim, out_dim, in_tokens, in_grid; it takes"):
        build(MLP, Connector)
    assert check_stored(MLP, Connector).__name__ == "MLPConnector"
    with pytest.raises(UserError, match="does not take x"):
        check_stored({**MLP, "x": 1}, Connector)


@pytest.mark.parametrize("node", [None, 3, "x", [], {}, [TINY], {"a": TINY}])
def test_anything_but_a_node_is_refused(node: Any) -> None:
    with pytest.raises(UserError, match=r"^part: expected an encoder, a node with _target_"):
        build(node, Encoder, where="part")


def test_old_names_are_mapped() -> None:
    old = {"_target_": "spinevl.data.cervai.CervAISource"}
    assert isinstance(build_stored(old, DataSource), CervAISource)
    assert OURS.find(old["_target_"], DataSource, where="") is CervAISource


def test_options_that_go_to_the_base_class_are_known() -> None:
    takes = signature_of(SliceEncoder)
    assert not takes.open_ended
    assert list(takes.parameters)[:2] == ["slices", "path"]
    with pytest.raises(UserError, match="does not take slicse; it takes slices, path"):
        build({"_target_": "spinevl.models.encoder.slices.SliceEncoder", "slicse": 3}, Encoder)


def test_slots() -> None:
    assert is_role(Encoder)
    assert is_role(Task)
    assert not is_role(TinyEncoder)
    for annotation in (int, "Encoder", list, list[int], dict[int, Encoder], Encoder | int, Any):
        assert slot_of(annotation) is None
    assert slot_of(dict[str, Encoder]).many == "mapping"
    assert slot_of(tuple[Encoder, ...] | None).many == "list"
