"""A file of configs is parsed again only where it has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hydra.plugins.config_source import ConfigLoadError

from spinevl.config.compose import compose
from spinevl.config.file_source import FileConfigSource


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The configs that Hydra has parsed."""
    seen: list[str] = []
    hydras: Any = FileConfigSource.__base__
    load = hydras.load_config

    def counted(self: Any, config_path: str) -> Any:
        seen.append(config_path)
        return load(self, config_path)

    monkeypatch.setattr(hydras, "load_config", counted)
    return seen


def test_what_a_caller_does_with_it_changes_no_other(tmp_path: Path, parsed: list[str]) -> None:
    (tmp_path / "group").mkdir()
    file = tmp_path / "group/a.yaml"
    file.write_text("# @package _global_\nx: {y: 1}\n")
    source = FileConfigSource("main", f"file://{tmp_path}")
    first = source.load_config("group/a")
    first.config.x.y = 5
    del first.config["x"]
    again = FileConfigSource("other", f"file://{tmp_path}/group").load_config("a.yaml")
    assert again.config == {"x": {"y": 1}}
    assert (again.provider, again.path) == ("other", f"file://{tmp_path}/group")
    assert again.header == {"package": "_global_"}
    assert len(parsed) == 1
    file.write_text("x: {y: 23}\n")
    changed = source.load_config("group/a")
    assert (changed.config, changed.header) == ({"x": {"y": 23}}, {"package": None})
    assert len(parsed) == 2
    file.unlink()
    with pytest.raises(ConfigLoadError, match=str(file)):
        source.load_config("group/a")


def test_a_second_command_parses_nothing(tmp_path: Path, parsed: list[str]) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nseed: 7\n")
    first = compose("train", ["experiment=mine"], config_dir=tmp_path)
    assert "experiment/mine" in parsed
    parsed.clear()
    assert compose("train", ["experiment=mine"], config_dir=tmp_path) == first
    assert parsed == []
    assert first.seed == 7


def test_a_file_that_replaces_one_of_the_same_size_and_time_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("x: 1\n")
    source = FileConfigSource("main", f"file://{tmp_path}")
    assert source.load_config("a").config == {"x": 1}
    other = tmp_path / "b.yaml"
    other.write_text("x: 2\n")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    loaded = source.load_config("a")
    assert loaded.config == {"x": 2}
    loaded.header["package"] = "x"
    assert source.load_config("a").header == {"package": None}
