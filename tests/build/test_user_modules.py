"""Modules in a user's folders: served by trusted name, behind everything that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spinevl.build.trust import NOTHING, Trust
from spinevl.build.user_modules import (
    UserModules,
    optional_packages,
    serve,
    served_folders,
    source_digest,
)


@pytest.fixture(autouse=True)
def _imported_once() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_only_trusted_names_are_served(tmp_path: Path) -> None:
    (tmp_path / "mine_a").mkdir()
    (tmp_path / "mine_a/__init__.py").write_text("")
    (tmp_path / "mine_a/sub.py").write_text("X = 1\n")
    (tmp_path / "mine_b.py").write_text("")
    serve(Trust(("mine_a.sub",)), [tmp_path / "nowhere", tmp_path])
    assert importlib.import_module("mine_a.sub").X == 1
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("mine_b")
    serve(Trust(("mine_b",)), [tmp_path])
    importlib.import_module("mine_b")
    assert sum(isinstance(one, UserModules) for one in sys.meta_path) == 1


def test_neither_installed_nor_optional_packages_are_shadowed(tmp_path: Path) -> None:
    for name in ("json", "numpy", "flash_attn", "deepspeed"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    serve(Trust(("json", "numpy", "flash_attn", "deepspeed")), [tmp_path])
    assert str(tmp_path) not in sys.path
    for name in ("json", "numpy"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert str(tmp_path) not in str(spec.origin)
    assert {"flash_attn", "deepspeed", "wandb", "nibabel"} <= optional_packages()
    for name in ("flash_attn", "deepspeed"):
        spec = importlib.util.find_spec(name)
        assert spec is None or str(tmp_path) not in str(spec.origin)


def test_python_m_finds_no_code_in_the_working_directory(tmp_path: Path) -> None:
    for name in ("hydra", "flash_attn", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    plugin = tmp_path / "hydra_plugins/evil"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text("raise SystemExit('imported')")
    command = [sys.executable, "-m", "spinevl", "build", "--cfg", "job"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_digest_tells_whether_code_that_is_served_has_changed(tmp_path: Path) -> None:
    (tmp_path / "my_parts/deep").mkdir(parents=True)
    for name in ("my_parts/__init__.py", "my_parts/deep/layer.py", "single.py", "untrusted.py"):
        (tmp_path / name).write_text("x = 1\n")
    serve(Trust(("my_parts.deep", "single", "absent")), [tmp_path])
    seen = [source_digest()]
    (tmp_path / "untrusted.py").write_text("x = 2\n")
    assert source_digest() == seen[0]
    for name in ("my_parts/deep/layer.py", "single.py"):
        (tmp_path / name).write_text("x = 2\n")
        seen.append(source_digest())
    assert None not in seen
    assert len(set(seen)) == 3
    serve(NOTHING, [tmp_path])
    assert source_digest() is None


@pytest.mark.parametrize("time", ["once", "and again"])
def test_what_one_test_serves_no_other_finds(tmp_path: Path, time: str) -> None:
    assert served_folders() == []
    serve(Trust(("mine_c",)), [tmp_path])
    assert served_folders() == [str(tmp_path)]
