"""Which image files are decoded."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from spinevl.io.image_file import load_image
from spinevl.schema.errors import UserError


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_images_are_known_by_their_content(tmp_path: Path, kind: str) -> None:
    Image.new("L", (6, 6), 40).save(tmp_path / "a.png", format=kind)
    assert load_image(tmp_path / "a.png", side_px=6).tolist() == [[40] * 6] * 6


def test_postscript_is_refused_and_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'RAN'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    Image.new("L", (6, 6), 40).save(tmp_path / "a.png", format="EPS")
    with pytest.raises(UserError, match=r"a\.png"):
        load_image(tmp_path / "a.png", side_px=6)
    assert not (tmp_path / "RAN").exists()
