"""What is damaged is logged as damaged here, and nothing else is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_warnings_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Take the place of the fixture that fails a test for any warning."""
    yield
    messages = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.WARNING
    ]
    assert all(" is damaged: " in message for message in messages), messages
