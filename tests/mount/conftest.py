from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

pytest.register_assert_rewrite("mount_run")  # its asserts say what they compared

from mount_run import FRONTEND, Mounted, Pair, memory_folder, mounted, scratch  # noqa: E402

_numbers = count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out of the run with fusepy what goes through both front ends in any run."""
    if FRONTEND == "fusepy":
        items[:] = [item for item in items if not _names_frontends(item)]


def _names_frontends(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and any(v in ("fusepy", "native") for v in callspec.params.values())


@pytest.fixture(scope="module")
def shared_folder() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


@pytest.fixture(scope="module")
def shared_mount(shared_folder: Path, request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """One mount for the tests of a module that each need only a directory.

    A module may name its own ``MOUNT_OPTIONS``.
    """
    with mounted(
        shared_folder, getattr(request.module, "MOUNT_OPTIONS", "idle=1,allow_other")
    ) as one:
        yield one


@pytest.fixture
def ours(shared_mount: Mounted) -> Path:
    """A fresh directory of the mount."""
    path = shared_mount.directory / f"t{next(_numbers)}"
    path.mkdir()
    return path


@pytest.fixture
def pair(ours: Path) -> Iterator[Pair]:
    """A fresh directory of the mount, and one of a tmpfs."""
    if memory_folder() is None:
        pytest.skip("there is no tmpfs on /dev/shm to compare with")
    with scratch("pmemfs-reference-") as reference:
        yield Pair(ours, reference)


@pytest.fixture
def own_mount(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """A mount of this test alone; a module may name its ``OWN_OPTIONS``."""
    options = getattr(request.module, "OWN_OPTIONS", "idle=1")
    with scratch() as folder, mounted(folder, options) as one:
        yield one
