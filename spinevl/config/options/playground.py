"""What the playground takes from a browser before it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from spinevl.config.keys import key


@dataclass
class LimitOptions:
    """Bounds on what a browser sends, so that no visitor fills the disk, the memory or the time."""

    upload_mb: float = key(64.0, help="largest upload, in MB", above=0, max=4096)
    total_mb: float = key(1024.0, help="all visitors' files together, in MB", above=0)
    files: int = key(64, help="files of one upload", min=1)
    images: int = key(16, help="images and volumes of one conversation", min=1)
    megapixels: float = key(16.0, help="largest image, in millions of pixels", above=0, max=64)
    megavoxels: float = key(64.0, help="largest volume, in millions of voxels", above=0, max=512)
    characters: int = key(8000, help="longest question", min=1)
    turns: int = key(50, help="questions of one conversation", min=1)
    new_tokens: int = key(1024, help="longest answer that a visitor may ask for", min=1)
    seconds: float = key(300.0, help="time of one answer", above=0)
    waiting: int = key(8, help="requests that wait while another is answered", min=0)
    visitors: int = key(100, help="visitors whose files are kept; the longest idle leaves", min=1)
    idle_minutes: float = key(30.0, help="a visitor's files are removed after this", above=0)

    @property
    def upload_bytes(self) -> int:
        """``upload_mb`` in bytes."""
        return int(self.upload_mb * 1e6)

    @property
    def total_bytes(self) -> int:
        """``total_mb`` in bytes."""
        return int(self.total_mb * 1e6)

    @property
    def pixels(self) -> int:
        """``megapixels`` as a number of pixels."""
        return int(self.megapixels * 1e6)

    @property
    def voxels(self) -> int:
        """``megavoxels`` as a number of voxels."""
        return int(self.megavoxels * 1e6)
