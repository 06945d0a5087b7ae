"""What a job's folder says of what the job was asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from spinevl.jobs.folder import CONFIG_FILE, read_config, write_config
from spinevl.schema.errors import UserError

CONFIG = {
    "seed": 0,
    "data": None,
    "sag_image": [5, 6],
    "optim": {"lr": {"llm": 1e-3}},
    "名": "病人",
}


def test_a_config_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_config(tmp_path, CONFIG)
    assert read_config(tmp_path) == CONFIG
    assert list(read_config(tmp_path)) == list(CONFIG)
    write_config(tmp_path, {**CONFIG, "seed": 1})
    assert read_config(tmp_path)["seed"] == 1
    assert [file.name for file in tmp_path.iterdir()] == [CONFIG_FILE]


def test_a_folder_without_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path.name}/{CONFIG_FILE}"):
        read_config(tmp_path)
