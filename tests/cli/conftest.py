from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "mount"))
pytest.register_assert_rewrite("mount_run")

from mount_run import Mounted, mounted, scratch  # noqa: E402


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, where there is one."""
    with scratch() as path:
        yield path


@pytest.fixture
def own_mount(folder: Path) -> Iterator[Mounted]:
    """A mount of this test alone, with the program's own choice of options."""
    with mounted(folder, "") as one:
        yield one
