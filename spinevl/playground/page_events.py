"""What the scripts of the page post, and nothing else.

Gradio looks at a request where it does what was asked, and fails with a traceback in the terminal
where a value is none that its page sends. So each request is made anew here of the values that the
page can send; everything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_NAME = re.compile(r"\w{1,64}", re.ASCII)  # of a tab, or of an event


class PageEvents:
    """The events of the page.

    Args:
        config: what Gradio tells the browser of the page: its components, and the events
            (``dependencies``) with the components whose values they take.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        components = {one["id"]: one for one in config["components"]}
        self._inputs = {
            one["id"]: [components[k] for k in one["inputs"]]
            for one in config["dependencies"]
            if one["backend_fn"]  # others are done by the page alone
        }

    def request(self, route: str, body: Any) -> dict[str, Any]:
        """The request that the page makes where ``body`` says the same.

        Args:
            route: ``join`` begins an event, ``cancel`` and ``reset`` end one.
            body: what was posted, read from JSON.

        Raises:
            ValueError: the page makes no such request. The message says what is wrong.
        """
        if not isinstance(body, dict):
            raise ValueError("no JSON object")
        if route == "reset":
            return {"event_id": _name(body, "event_id")}
        number = body.get("fn_index")
        if type(number) is not int or number not in self._inputs:
            raise ValueError("fn_index: no event of the page")
        made = {"fn_index": number, "session_hash": _name(body, "session_hash")}
        if route == "cancel":
            return {**made, "event_id": _name(body, "event_id")}
        values, inputs = body.get("data"), self._inputs[number]
        if not isinstance(values, list) or len(values) != len(inputs):
            raise ValueError(f"data: not the {len(inputs)} values of the event")
        data = []
        for place, (component, value) in enumerate(zip(inputs, values, strict=True)):
            try:
                data.append(_KINDS[component["type"]](value, component["props"]))
            except (KeyError, TypeError):
                raise ValueError(f"data[{place}]: no value of a {component['type']}") from None
        return {**made, "data": data}


def _name(body: Mapping[str, Any], key: str) -> str:
    name = body.get(key)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{key}: no name")
    return name


def _require(fits: bool) -> None:
    if not fits:
        raise TypeError


def _files(value: Any, props: Mapping[str, Any]) -> Any:
    """Files that were uploaded, by their paths; what else was told of them is left out."""
    if value is None:
        return None
    _require(isinstance(value, list) and all(isinstance(one["path"], str) for one in value))
    return [{"path": one["path"], "meta": {"_type": "gradio.FileData"}} for one in value]


def _choice(value: Any, props: Mapping[str, Any]) -> Any:
    _require(value is None or value in [known for _, known in props["choices"]])
    return value


def _number(value: Any, props: Mapping[str, Any]) -> Any:
    _require(isinstance(value, (int, float)) and not isinstance(value, bool))
    _require(props["minimum"] <= value <= props["maximum"])
    return value


def _text(value: Any, props: Mapping[str, Any]) -> Any:
    _require(value is None or isinstance(value, str))
    return value


_KINDS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "file": _files,
    "dropdown": _choice,
    "radio": _choice,
    "slider": _number,
    "textbox": _text,
}
