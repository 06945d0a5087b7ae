"""Hydra's files of configs, each parsed once in a process as long as it stays as it is.

Hydra composes every command twice, and a sweep twice for each of its jobs, from the same files.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult

# file -> what tells its states apart, and what Hydra has read of it
_known: dict[Path, tuple[tuple[int, ...], ConfigResult]] = {}


class FileConfigSource(file_config_source.FileConfigSource):
    """Reads a file again only where it has changed."""

    def load_config(self, config_path: str) -> ConfigResult:
        """What a file holds, for the caller to change."""
        try:
            file = Path(self.path, self._normalize_file_name(config_path)).resolve(strict=True)
            found = file.stat()
        except OSError:  # Hydra says what is wrong with it
            return super().load_config(config_path)
        # copies may keep the time of what they replace, but not the time of their own change
        now = found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        known = _known.get(file)
        if known is None or known[0] != now:
            known = now, super().load_config(config_path)
            _known[file] = known
        return replace(
            known[1],
            provider=self.provider,
            path=f"{self.scheme()}://{self.path}",
            config=deepcopy(known[1].config),
            header=dict(known[1].header),
        )


def read_files_once() -> None:
    """Have Hydra read files so in this process; its plugins must be loaded."""
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
