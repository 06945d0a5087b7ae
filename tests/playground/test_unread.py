"""A tab that asks and does not read is refused after some events."""

from __future__ import annotations

from spinevl.playground.unread import Unread

ENDED = b'data: {"msg":"process_completed","event_id":"a"}\n\n'


def test_who_does_not_read_is_refused() -> None:
    unread = Unread(tabs=2)
    assert [unread.begin("a") for _ in range(18)] == [True] * 16 + [False] * 2
    unread.read("a", b'data: {"msg":"process_generating"}\n\n')
    assert not unread.begin("a")
    unread.read("a", 2 * ENDED)
    assert [unread.begin("a") for _ in range(3)] == [True, True, False]
    unread.read("a", b'data: {"msg":"close_stream"}\n\n')
    assert [unread.begin("a") for _ in range(17)] == [True] * 16 + [False]


def test_what_the_visitor_wrote_is_no_end() -> None:
    unread = Unread(tabs=2)
    assert all(unread.begin("a") for _ in range(16))
    unread.read("a", b'data: {"output":"\\"msg\\":\\"process_completed\\""}\n\n')
    assert not unread.begin("a")


def test_the_oldest_tab_is_forgotten() -> None:
    unread = Unread(tabs=2)
    for tab in "abac":
        assert all(unread.begin(tab) for _ in range(8))
    assert not unread.begin("a")  # which was seen after b
    assert unread.begin("b")
    unread.read("nobody", ENDED)
