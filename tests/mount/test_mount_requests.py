"""How many requests the kernel sends for what people do: counted where they arrive."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mount_run import NEEDS_MOUNT, NEEDS_ROOT, assert_clean, scratch, wait_until

from pmemfs.fs import Volume
from pmemfs.fuse.mounts import sync_directory, unmount
from pmemfs.fuse.native_frontend import NativeFrontend
from pmemfs.fuse.native_mount import mount_native
from pmemfs.fuse.options import parse
from pmemfs.fuse.protocol import Opcode
from pmemfs.reclaim import Policy, Reclaimer

pytestmark = [*NEEDS_MOUNT, NEEDS_ROOT]
MIB = 1 << 20


class CountingFrontend(NativeFrontend):
    """Notes the kind of each request."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[str] = []

    def _dispatch(self, length: int) -> None:
        self.seen.append(Opcode(int.from_bytes(self._buffer[4:8], "little")).name)
        super()._dispatch(length)


class Served:
    """A mount that is served by a thread of the test."""

    def __init__(self, directory: Path, volume: Volume, server: CountingFrontend) -> None:
        self.directory = directory
        self.volume = volume
        self._server = server

    def requests(self, work: Callable[[], object]) -> Counter[str]:
        """Return how many requests of each kind some work makes."""
        sync_directory(str(self.directory))
        self._server.seen.clear()
        work()
        return Counter(self._server.seen)


@contextmanager
def serve(folder: Path, text: str = "") -> Iterator[Served]:
    """Mount an image and serve it here."""
    image, directory = folder / "disk.img", folder / "mnt"
    options = parse([text], str(image))
    volume = Volume.open(image)
    fd = mount_native(str(directory), options)
    ready = threading.Event()
    server = CountingFrontend(
        volume,
        fd,
        reclaimer=Reclaimer(volume, Policy()),
        checked=options.default_permissions,
        on_ready=ready.set,
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(10)
        (directory / "warm").write_text("so that the kernel knows what is not to be asked")
        yield Served(directory, volume, server)
    finally:
        unmount(str(directory), lazy=True)
        thread.join(10)
        os.close(fd)
        volume.close()
    assert_clean(image)


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as path:
        Volume.format(path / "disk.img", 64 * MIB)
        (path / "mnt").mkdir()
        yield path


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    with serve(folder) as one:
        yield one


def make(path: Path, data: bytes = b"x" * 1024) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, data)
    os.close(fd)


def read(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    assert os.read(fd, 4096)
    os.close(fd)


def test_reading_a_cached_file_asks_nothing(served: Served) -> None:
    path = served.directory / "f"
    make(path)
    read(path)
    assert not served.requests(lambda: read(path))


def test_making_a_file(served: Served) -> None:
    """GETXATTR asks for capabilities that a write would drop; close writes what is cached.

    Close hands in the times, too, where the kernel's clock has moved on since MKNOD.
    """
    seen = served.requests(lambda: make(served.directory / "f"))
    assert seen.pop("SETATTR", 0) <= 1
    assert seen == {"LOOKUP": 1, "MKNOD": 1, "GETXATTR": 1, "WRITE": 1}


def test_making_removing_and_renaming_ask_nothing_of_the_directory(served: Served) -> None:
    def work() -> None:
        for number in range(10):
            make(served.directory / f"{number}")
        for number in range(10):
            os.rename(served.directory / f"{number}", served.directory / f"new{number}")
        for number in range(10):
            os.unlink(served.directory / f"new{number}")

    seen = served.requests(work)
    assert seen["LOOKUP"] == 20, "each new name once"
    assert seen["MKNOD"] == seen["RENAME"] + seen["RENAME2"] == seen["UNLINK"] == 10
    assert seen["SETATTR"] <= 30, "the times that writeback hands in"
    assert not seen["GETATTR"]
    assert not seen["OPEN"] + seen["RELEASE"] + seen["FLUSH"] + seen["ACCESS"] + seen["CREATE"]


def test_the_check_of_permissions_costs_one_request_after_each_change(folder: Path) -> None:
    with serve(folder, "default_permissions") as served:
        names = [served.directory / f"{number}" for number in range(10)]
        seen = served.requests(lambda: [make(name) for name in names])
        assert 9 <= seen.pop("GETATTR") <= 11
        assert seen.pop("SETATTR", 0) <= 10
        assert seen == {"LOOKUP": 10, "MKNOD": 10, "GETXATTR": 10, "WRITE": 10}


def test_listing_a_thousand_files(folder: Path) -> None:
    def list_long() -> None:
        assert sum(entry.stat().st_size for entry in os.scandir(served.directory / "d")) == 1000

    with serve(folder) as served:
        (served.directory / "d").mkdir()
        for number in range(1000):
            make(served.directory / "d" / f"file{number}", b"x")
    with serve(folder) as served:
        os.listdir(served.directory)
        cold = served.requests(list_long)
        assert cold["READDIRPLUS"] <= 10
        assert sum(cold.values()) <= 12, cold
        warm = served.requests(lambda: [p.stat() for p in (served.directory / "d").iterdir()])
        assert not warm["LOOKUP"], warm
        assert warm["GETATTR"] <= 1, "of the directory"


def test_writes_are_gathered(served: Served) -> None:
    """A MiB in 256 writes is one request, or two where the flusher comes between."""

    def work() -> None:
        fd = os.open(served.directory / "f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        for _ in range(256):
            os.write(fd, bytes(4096))
        os.fsync(fd)
        os.close(fd)

    seen = served.requests(work)
    assert 1 <= seen["WRITE"] <= 2, seen
    assert seen["GETXATTR"] == 1


def test_what_the_kernel_forgets_is_not_held(served: Served) -> None:
    holds = served.volume.inodes.holds
    before = len(holds)
    for number in range(300):
        make(served.directory / f"{number}")
    assert len(holds) == before + 300
    for number in range(300):
        os.unlink(served.directory / f"{number}")
    assert wait_until(lambda: len(holds) == before)


# -- what must not end the daemon ----------------------------------------------------------------


def test_an_unexpected_exception_is_an_error_of_that_request(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(served.volume, "statfs", fail)
        with pytest.raises(OSError, match="Input/output error"):
            os.statvfs(served.directory)
    assert "ZeroDivisionError" in caplog.text
    assert "request 17" in caplog.text
    caplog.clear()
    assert os.statvfs(served.directory).f_blocks


def test_a_killed_client_leaves_the_daemon_serving(served: Served) -> None:
    for delay_s in (0.0, 0.05, 0.2):
        words = ["dd", "if=/dev/zero", f"of={served.directory}/f", "bs=1M", "count=40"]
        client = subprocess.Popen([*words, "oflag=direct"], stderr=subprocess.DEVNULL)
        time.sleep(delay_s)
        client.kill()
        client.wait()
        make(served.directory / f"after{delay_s}")
    read(served.directory / "after0.0")
