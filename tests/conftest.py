"""Fixtures that every part of the tests may use; the classes behind them are in `volumes`."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from volumes import ManualClock, VolumeBed

from pmemfs.fs import Volume

settings.register_profile("default", deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("default")


@pytest.fixture
def image_dir(tmp_path: Path) -> Iterator[Path]:
    """A directory for images, in memory where the host has /dev/shm."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="pmemfs-test-", dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until the test moves it."""
    return ManualClock()


@pytest.fixture
def bed(image_dir: Path, tmp_path: Path, clock: ManualClock) -> Iterator[VolumeBed]:
    """Makes volumes; at the end each is closed and its image checked by fsck."""
    bed = VolumeBed(image_dir, clock, keep_dir=tmp_path)
    yield bed
    bed.finish()


@pytest.fixture
def volume(bed: VolumeBed) -> Volume:
    """A fresh volume of 64 MiB."""
    return bed.make()


@pytest.fixture(autouse=True)
def no_warnings_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that made the program log a warning, unless it cleared ``caplog``."""
    yield
    records = [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING]
    assert not records, [record.getMessage() for record in records]
