"""Processes that wait for each other for ever must fail a test, and not stop the suite."""

from __future__ import annotations

import faulthandler
from collections.abc import Generator

import pytest

LIMIT_S = 420.0  # a test with its fixtures; they take a minute each on two cores


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the whole run, with the stack, where a test of this folder takes longer."""
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
