"""Which requests the page's own scripts make; all others are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from spinevl.playground.page_events import PageEvents

CONFIG = {
    "components": [
        {"id": 1, "type": "file", "props": {}},
        {"id": 2, "type": "dropdown", "props": {"choices": [["disc protrusion", "zjppt"]]}},
        {"id": 3, "type": "radio", "props": {"choices": [["C2", "C2"], ["C2-C3", "C2-C3"]]}},
        {"id": 4, "type": "slider", "props": {"minimum": 0, "maximum": 2}},
        {"id": 5, "type": "textbox", "props": {}},
        {"id": 6, "type": "button", "props": {}},
    ],
    "dependencies": [
        {"id": 0, "inputs": [], "backend_fn": True},
        {"id": 7, "inputs": [1, 2, 3, 4, 5], "backend_fn": True},
        {"id": 8, "inputs": [6], "backend_fn": True},
        {"id": 9, "inputs": [1], "backend_fn": False},
    ],
}
FILE = {"path": "/x/a.png", "meta": {"_type": "gradio.FileData"}}
GOOD = {"fn_index": 7, "session_hash": "a1b2", "data": [[FILE], "zjppt", "C2", 0.5, "Hello?"]}
WRONG: list[Any] = [
    *(5, True, -1.0, 2.5, "x", "", [], [1], [None], [["a"]], {}, {"path": "/x"}, [{"path": 5}]),
    *([{"url": "http://example.com/"}], [{"path": ["/x"]}], {"value": "C2"}, None),
]
FITS = {0: ([], None), 1: (None,), 2: (None,), 3: (), 4: ("x", "", None)}


@pytest.fixture
def events() -> PageEvents:
    return PageEvents(CONFIG)


def changed(**values: Any) -> dict[str, Any]:
    return {**copy.deepcopy(GOOD), **values}


def test_a_request_is_made_anew_of_what_the_page_sends(events: PageEvents) -> None:
    more = {"event_data": {"x": 1}, "trigger_id": 5, "batched": True, "simple_format": True}
    told = {**FILE, "url": "http://example.com/", "orig_name": "../x", "size": 10**9}
    assert events.request("join", {**changed(**more), "data": [[told], *GOOD["data"][1:]]}) == GOOD
    empty = changed(data=[None, None, None, 0, None])
    assert events.request("join", empty) == empty
    assert events.request("join", changed(fn_index=0, data=[]))["data"] == []
    ended = {"fn_index": 0, "session_hash": "a", "event_id": "0f"}
    assert events.request("cancel", {**ended, "more": 1}) == ended
    assert events.request("reset", ended) == {"event_id": "0f"}


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_values_are_those_of_their_component(events: PageEvents, place: int, value: Any) -> None:
    body = copy.deepcopy(GOOD)
    body["data"][place] = value
    if any(value == one and type(value) is type(one) for one in FITS[place]):
        assert events.request("join", body) == body
    else:
        with pytest.raises(ValueError, match=rf"data\[{place}\]"):
            events.request("join", body)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("fn_index", one) for one in (9, -1, True, "7", 7.0, None, [7], 10**30)),
        *(("session_hash", one) for one in (None, "", "a b", "../a", "a" * 65, "é", 5, ["a"])),
        *(("data", one) for one in (None, {}, "abcde", [], GOOD["data"][:4], [*GOOD["data"], 1])),
    ],
)
def test_other_events_are_refused(events: PageEvents, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        events.request("join", changed(**{key: value}))


def test_other_bodies_are_refused(events: PageEvents) -> None:
    bodies: tuple[Any, ...] = (None, [], "x", 5, {}, {"data": []}, {"event_id": ["a"]})
    for body in bodies:
        for route in ("join", "cancel", "reset"):
            with pytest.raises(ValueError, match=r"JSON|fn_index|event_id"):
                events.request(route, body)
    with pytest.raises(ValueError, match=r"data\[0\].*button"):
        events.request("join", changed(fn_index=8, data=["x"]))
