"""The daemon is killed in the middle of work: what was acknowledged is there after a new mount."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mount_run import NEEDS_MOUNT, Mounted, needs_program, run_here

from pmemfs.fuse import mounts
from pmemfs.image import Image

pytestmark = NEEDS_MOUNT
MIB = 1 << 20
OWN_OPTIONS = "idle=1,cache=writethrough"  # with writeback, only what was synced is acknowledged


def bring_back(one: Mounted) -> str:
    """Remove the dead mount, check the image as it is, mount it again; return what that said."""
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENOTCONN}\]"):
        os.listdir(one.directory)
    run_here("umount", one.directory)
    one.fsck()
    opened = Image.open(one.image, lock="none")
    try:
        assert not opened.is_clean
    finally:
        opened.close()
    said = one.mount(OWN_OPTIONS)
    recovery = [line for line in said.splitlines() if "was not closed" in line]
    assert len(recovery) == 1, said
    assert "replay" in recovery[0]
    return recovery[0]


class Writer:
    """A process that works on the mount, and tells by a pipe what has been acknowledged."""

    def __init__(self, root: Path, seed: int) -> None:
        read_end, write_end = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            with suppress(BaseException):
                os.close(read_end)
                _work(root, seed, write_end)
                status = 0
            os._exit(status)
        os.close(write_end)
        self.pipe = os.fdopen(read_end, "r")

    def lines(self) -> list[str]:
        """Wait for its end; return what it told."""
        with self.pipe:
            text = self.pipe.read()
        os.waitpid(self.pid, 0)
        return [line for line in text.split("\n")[:-1] if line]


def _content(seed: int, number: int) -> bytes:
    rng = random.Random(seed * 100003 + number)
    return rng.randbytes(rng.choice((1, 100, 4096, 9000, 70000, 300000)))


def _work(root: Path, seed: int, told: int) -> None:
    """Create, overwrite, append, rename, remove; tell each when the call has returned."""
    rng = random.Random(seed)
    for number in range(100000):
        data = _content(seed, number)
        fd = os.open(root / f"f{number}", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        os.write(told, f"create {number}\n".encode())
        for start in range(0, len(data), 65536):
            done = os.pwrite(fd, data[start : start + 65536], start)
            os.write(told, f"write {number} {start + done}\n".encode())
        os.close(fd)
        if rng.random() < 0.3:
            old = rng.randrange(number + 1)
            with suppress(FileNotFoundError):
                os.write(told, f"moving {old}\n".encode())
                os.rename(root / f"f{old}", root / "d" / f"f{old}")
                os.write(told, f"moved {old}\n".encode())
        if rng.random() < 0.2:
            old = rng.randrange(number + 1)
            with suppress(FileNotFoundError):
                os.write(told, f"removing {old}\n".encode())
                os.unlink(root / f"f{old}")
                os.write(told, f"removed {old}\n".encode())


def check(root: Path, seed: int, lines: list[str]) -> int:
    """Assert that all the lines tell is so; return how many writes were acknowledged."""
    sizes: dict[int, int] = {}
    places: dict[int, str] = {}
    acknowledged = 0
    for line in lines:
        verb, number, *rest = line.split()
        n = int(number)
        if verb == "create":
            sizes[n], places[n] = 0, "here"
        elif verb == "write":
            sizes[n] = int(rest[0])
            acknowledged += 1
        else:
            places[n] = (
                verb if places.get(n, "here") in ("here", "moving", "removing") else places[n]
            )
    for n, size in sizes.items():
        here, moved = root / f"f{n}", root / "d" / f"f{n}"
        place = places[n]
        if place == "removed":
            assert not here.exists()
            continue
        if place == "moved":
            assert not here.exists()
        path = moved if place == "moved" or (place == "moving" and moved.exists()) else here
        if place == "removing" and not path.exists():
            continue
        found, data = path.read_bytes(), _content(seed, n)
        assert found[:size] == data[:size], f"file {n} has lost acknowledged bytes"
        assert found == data[: len(found)], f"file {n} has bytes that nobody wrote"
    return acknowledged


@pytest.mark.parametrize("seed", range(3))
def test_acknowledged_writes_survive(seed: int, own_mount: Mounted) -> None:
    root = own_mount.directory / "work"
    (root / "d").mkdir(parents=True)
    writer = Writer(root, seed)
    time.sleep(0.5 + 0.17 * seed)
    own_mount.kill()
    lines = writer.lines()
    bring_back(own_mount)
    assert check(root, seed, lines) > 5
    (root / "again").write_bytes(b"works")
    shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_acknowledged_writes_survive_many_kills(seed: int, own_mount: Mounted) -> None:
    for turn in range(5):
        root = own_mount.directory / f"work{turn}"
        (root / "d").mkdir(parents=True)
        writer = Writer(root, seed + turn)
        time.sleep(random.Random(seed + turn).uniform(0.05, 1.5))
        own_mount.kill()
        lines = writer.lines()
        bring_back(own_mount)
        check(root, seed + turn, lines)
        if turn % 2:
            shutil.rmtree(root)


@pytest.mark.parametrize("delay_s", [0.1, 0.35])
def test_killed_during_cp(delay_s: float, own_mount: Mounted) -> None:
    source = Path(os.__file__).parent / "asyncio"
    first = own_mount.directory / "first"
    subprocess.run(["cp", "-r", source, first], check=True)
    with subprocess.Popen(
        ["cp", "-rv", source, own_mount.directory / "second"], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as cp:  # fmt: skip
        time.sleep(delay_s)
        own_mount.kill()
        cp.communicate(timeout=30)
    bring_back(own_mount)
    subprocess.run(["diff", "-r", source, first], check=True)
    again = own_mount.directory / "second"
    shutil.rmtree(again, ignore_errors=True)
    subprocess.run(["cp", "-r", source, again], check=True)
    own_mount.remount()
    subprocess.run(["diff", "-r", source, again], check=True)


@needs_program("fio")
@pytest.mark.parametrize("direct", [0, 1])
def test_killed_during_fio(direct: int, own_mount: Mounted, tmp_path: Path) -> None:
    """No block is written twice: one that is overwritten just then may be torn."""
    job = [
        "fio", "--name=j", f"--directory={own_mount.directory}", "--rw=randwrite", "--bs=4k",
        "--size=160m", f"--direct={direct}", "--verify=crc32c", "--ioengine=psync", "--numjobs=1",
        "--fallocate=none", "--verify_state_save=1", "--do_verify=0",
    ]  # fmt: skip
    path = own_mount.directory / "j.0.0"
    path.touch()
    os.truncate(path, 160 << 20)  # fio makes a file of another size anew
    with subprocess.Popen(
        job, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as fio:
        time.sleep(1.5)
        own_mount.kill()
        fio.wait(timeout=30)
    bring_back(own_mount)
    states = list(tmp_path.glob("*verify.state"))
    assert path.stat().st_blocks > 0
    if states:
        verify = [a for a in job if not a.startswith("--do_verify")]
        done = subprocess.run(
            [*verify, "--verify_only", "--verify_state_load=1"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    path.unlink()


def test_killed_again_right_after_a_recovery(own_mount: Mounted) -> None:
    root = own_mount.directory
    for turn in range(3):
        (root / f"f{turn}").write_bytes(b"x" * 10000)
        own_mount.kill()
        bring_back(own_mount)
        for earlier in range(turn + 1):
            assert (root / f"f{earlier}").read_bytes() == b"x" * 10000


def test_what_was_removed_while_open_is_freed_after_a_kill(own_mount: Mounted) -> None:
    root = own_mount.directory
    free = os.statvfs(root).f_bfree
    fd = os.open(root / "f", os.O_CREAT | os.O_RDWR)
    try:
        os.write(fd, bytes(30 * MIB))
        os.unlink(root / "f")
        own_mount.kill()
    finally:
        with suppress(OSError):
            os.close(fd)
    assert "orphan" in bring_back(own_mount)
    assert os.listdir(root) == []
    own_mount.remount()
    assert os.statvfs(root).f_bfree == free


def test_a_termination_signal_closes_cleanly(own_mount: Mounted) -> None:
    (own_mount.directory / "f").write_bytes(b"data")
    pid = own_mount.pid
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while mounts.is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    opened = Image.open(own_mount.image, lock="shared")
    try:
        assert opened.is_clean
    finally:
        opened.close()
    said = own_mount.mount()
    assert "not closed" not in said
    assert (own_mount.directory / "f").read_bytes() == b"data"
