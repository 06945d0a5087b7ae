"""How much the server keeps for tabs that ask and do not read."""

from __future__ import annotations

_MOST = 16
_ENDED = b'"msg":"process_completed"'
_ALL_READ = b'"msg":"close_stream"'


class Unread:
    """The events of each tab whose end it has not read; the server keeps what they ended with.

    Args:
        tabs: of how many the server keeps something; the oldest is forgotten.
    """

    def __init__(self, *, tabs: int) -> None:
        self._tabs = tabs
        self._counts: dict[str, int] = {}  # the newest one last

    def begin(self, tab: str) -> bool:
        """Whether a tab may begin another event."""
        count = self._counts.pop(tab, 0)
        self._counts[tab] = min(count + 1, _MOST)
        for one in list(self._counts)[: -self._tabs]:
            del self._counts[one]
        return count < _MOST

    def read(self, tab: str, sent: bytes) -> None:
        """A tab has read so much of its stream."""
        if _ALL_READ in sent:
            self._counts.pop(tab, None)
        elif (ended := sent.count(_ENDED)) and tab in self._counts:
            self._counts[tab] = max(0, self._counts[tab] - ended)
