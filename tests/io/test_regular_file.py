"""A file is opened; a pipe, a device or a folder is refused at once."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from spinevl.io.regular_file import open_regular, read_regular
from spinevl.schema.errors import UserError, escaped


def said(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        read_regular(path, expected="a scan", missing="add it")
    (line,) = caught.value.problems
    assert line.startswith(escaped(str(path))[:100])
    assert ": expected a scan, found " in line
    return line


def test_files_and_links_to_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to("b")
    for name in "abc":
        assert read_regular(tmp_path / name, expected="a scan") == b"content"
        with open_regular(str(tmp_path / name), expected="a scan") as file:
            assert file.read(3) == b"con"


def test_what_would_wait_or_never_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it: a plain open would wait for ever
    (tmp_path / "link").symlink_to("pipe")
    assert "named pipe" in said(tmp_path / "pipe")
    assert "named pipe" in said(tmp_path / "link")
    assert "device" in said("/dev/zero")
    assert "folder" in said(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s"))  # the whole path may be too long
        said(tmp_path / "s")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert said(tmp_path / "gone").endswith("no such file; add it")
    (tmp_path / "link").symlink_to("gone")
    assert "link" in said(tmp_path / "link")
    (tmp_path / "loop").symlink_to("loop")
    said(tmp_path / "loop")
    said(str(tmp_path / "a\0b"))
    said(str(tmp_path / ("x" * 5000)))


def test_a_large_file_is_refused_at_its_first_bad_block(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.write_bytes(b"text")
    os.truncate(path, 2**36)  # far more than a machine holds
    seen = []

    def check(block: bytes, start: int) -> None:
        seen.append((start, len(block)))
        if start:
            raise UserError("the second block")

    with pytest.raises(UserError, match="the second block"):
        read_regular(path, expected="a scan", check=check)
    ((first, size), (second, _)) = seen
    assert (first, second) == (0, size)
    os.truncate(path, size + 3)
    assert read_regular(path, expected="a scan", check=lambda *_: None) == path.read_bytes()
