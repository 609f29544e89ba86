"""Damage met by an open volume: it turns read-only, says why once, and loses nothing committed."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from volumes import REGULAR, ManualClock, VolumeBed, validate_image

from pmemfs.errors import DamagedImageError, HostError, InvariantError, PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.records import MountState, Persist
from pmemfs.pages import Arena
from pmemfs.reclaim import Policy, Reclaimer

PAGE = 4096


@pytest.fixture(autouse=True)
def no_warnings_logged() -> None:
    """The tests here expect the log to say what is damaged, and look at it themselves."""


@pytest.fixture
def path(image_dir: Path) -> Path:
    """An image with files ``kept``, ``other`` and ``bad``, that no fixture closes or checks."""
    path = image_dir / "damaged.img"
    Volume.format(path, 64 << 20)
    with open_volume(path) as volume:
        for name in (b"kept", b"other", b"bad"):
            ino = volume.create(ROOT_INO, name, REGULAR).ino
            volume.write(ino, 0, name * 3000)
    return path


def open_volume(path: Path, **options) -> Volume:
    return Volume.open(path, Options(clock=ManualClock(), **options))


def patch_inode(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset + 40)
        file.write(data)


def offset_of(path: Path, name: bytes) -> int:
    with Volume.open(path, Options(read_only=True)) as volume:
        return volume.lookup(ROOT_INO, name).offset


@pytest.fixture
def volume(path: Path) -> Iterator[Volume]:
    """A volume that is open while the inode of ``bad`` gets damaged."""
    offset = offset_of(path, b"bad")
    volume = open_volume(path)
    patch_inode(path, offset, b"\xff" * 8)
    yield volume
    volume.abandon()


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def meet(volume: Volume) -> None:
    with pytest.raises(DamagedImageError):
        volume.lookup(ROOT_INO, b"bad")


CHANGES: dict[str, Callable[[Volume, int], object]] = {
    "create": lambda v, ino: v.create(ROOT_INO, b"new", REGULAR),
    "mkdir": lambda v, ino: v.mkdir(ROOT_INO, b"new", 0o755),
    "symlink": lambda v, ino: v.symlink(ROOT_INO, b"new", b"target"),
    "link": lambda v, ino: v.link(ino, ROOT_INO, b"new"),
    "unlink": lambda v, ino: v.unlink(ROOT_INO, b"kept"),
    "rename": lambda v, ino: v.rename(ROOT_INO, b"kept", ROOT_INO, b"new"),
    "tmpfile": lambda v, ino: v.tmpfile(ROOT_INO, 0o600),
    "write": lambda v, ino: v.write(ino, 0, b"x"),
    "truncate": lambda v, ino: v.setattr(ino, size=0),
    "chmod": lambda v, ino: v.setattr(ino, mode=0o600),
    "fallocate": lambda v, ino: v.fallocate(ino, 0, 0, 1 << 20),
    "punch": lambda v, ino: v.fallocate(ino, 3, 0, PAGE),
    "setxattr": lambda v, ino: v.setxattr(ino, b"user.a", b"1"),
    "flags": lambda v, ino: v.set_inode_flags(ino, 0x10),
}


def test_changes_are_refused_and_reads_go_on(volume: Volume) -> None:
    ino = volume.lookup(ROOT_INO, b"kept").ino
    volume.write(ino, 0, b"KEPT")
    meet(volume)
    stores = volume.device.counters.stores
    for name, change in CHANGES.items():
        with pytest.raises(PmemfsError) as info:
            change(volume, ino)
        assert info.value.errno == errno.EROFS, name
    assert b"".join(volume.read(ino, 0, 8)) == b"KEPTkept"
    other = volume.lookup(ROOT_INO, b"other").ino
    assert b"".join(volume.read(other, 0, 5)) == b"other"
    assert [entry.name for entry in volume.readdir(ROOT_INO)][:2] == [b".", b".."]
    assert volume.statfs().pages
    meet(volume)
    assert volume.device.counters.stores == stores


def test_the_reason_is_logged_once(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        meet(volume)
    (line,) = reasons(caplog)
    assert line.startswith(f"{volume.image.name} is damaged: inode ")
    assert "read-only from here on" in line
    assert f"pmemfs fsck {volume.image.name}" in line


def test_it_is_not_closed_as_clean_and_nothing_is_lost(
    volume: Volume, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = volume.create(ROOT_INO, b"made", REGULAR).ino
    volume.write(made, 0, b"before the damage")
    volume.write(made, 0, b"BEFORE")
    meet(volume)
    volume.fsync(made)
    syncs = volume.device.counters.syncs
    device = volume.device
    volume.close()
    assert device.counters.syncs == syncs + 1
    again = open_volume(path, read_only=True)
    assert again.image.control()["state"] == MountState.DAMAGED
    assert not again.was_clean
    ino = again.lookup(ROOT_INO, b"made").ino
    assert b"".join(again.read(ino, 0, 99)) == b"BEFORE the damage"
    again.close()


def test_holds_and_idle_work_after_damage(volume: Volume) -> None:
    ino = volume.lookup(ROOT_INO, b"kept").ino
    volume.hold(ino)
    volume.unlink(ROOT_INO, b"kept")
    reclaimer = Reclaimer(volume, Policy(0.0), now_s=lambda: 4e9)
    meet(volume)
    stores = volume.device.counters.stores
    volume.release(ino)
    assert reclaimer.step() > 1
    assert volume.device.counters.stores == stores


def test_damage_met_by_idle_work(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(extent: int) -> None:
        raise InvariantError("2: a test says so")

    ino = volume.lookup(ROOT_INO, b"kept").ino
    volume.read(ino, 0, 1)
    monkeypatch.setattr(volume.tables, "unsplit", broken)
    assert Reclaimer(volume, Policy(0.0), now_s=lambda: 4e9).step() > 1
    assert volume.is_read_only
    assert "2: a test says so" in reasons(caplog)[0]


def test_a_broken_invariant(
    bed: VolumeBed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> None:
        raise InvariantError("1: a test says so")

    volume = bed.make()
    ino = volume.create(ROOT_INO, b"f", REGULAR).ino
    monkeypatch.setattr(Arena, "allocate", broken)
    with pytest.raises(InvariantError):
        volume.write(ino, 0, b"x")
    with pytest.raises(PmemfsError, match="damage was found"):
        volume.create(ROOT_INO, b"g", REGULAR)
    assert len(reasons(caplog)) == 1


def test_readdir_meets_damage(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(*arguments: object) -> Iterator[None]:
        raise DamagedImageError("a leaf is damaged")
        yield

    monkeypatch.setattr(volume._directories, "iter_entries", damaged)
    entries = volume.readdir(ROOT_INO)
    assert next(entries).name == b"."
    with pytest.raises(DamagedImageError):
        list(entries)
    assert volume.is_read_only


def test_ordinary_errors_are_no_damage(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    for call in (
        lambda: volume.lookup(ROOT_INO, b"nothing"),
        lambda: volume.create(ROOT_INO, b"kept", REGULAR),
        lambda: volume.getxattr(ROOT_INO, b"user.none"),
        lambda: volume.write(ROOT_INO, 0, b"x"),
    ):
        with pytest.raises(PmemfsError):
            call()
    assert not volume.is_read_only
    volume.create(ROOT_INO, b"new", REGULAR)
    assert not reasons(caplog)


def test_errors_continue(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    offset = offset_of(path, b"bad")
    volume = open_volume(path, errors="continue")
    patch_inode(path, offset, b"\xff" * 8)
    meet(volume)
    assert "errors=continue" in reasons(caplog)[0]
    volume.create(ROOT_INO, b"new", REGULAR)
    volume.close()
    again = open_volume(path, read_only=True)
    assert again.image.control()["state"] == MountState.DAMAGED
    assert again.replay is None
    again.lookup(ROOT_INO, b"new")
    again.close()


def test_a_read_only_mount_only_logs(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    patch_inode(path, offset_of(path, b"bad"), b"\xff" * 8)
    before = path.read_bytes()
    with open_volume(path, read_only=True) as volume:
        meet(volume)
        assert len(reasons(caplog)) == 1
    assert path.read_bytes() == before


# -- a host that fails in the midst of a commit -------------------------------------------------


@pytest.mark.parametrize("n", range(1, 5))
@pytest.mark.parametrize("retires", [False, True])
def test_a_commit_that_fails_half_way(
    path: Path,
    n: int,
    retires: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The n-th fdatasync of an operation fails: it is there whole or not at all."""
    volume = open_volume(path, persist=Persist.DISK, errors="continue")
    ino = volume.lookup(ROOT_INO, b"kept").ino
    calls = 0

    def fdatasync(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == n:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    last = 4 if retires else 2
    run = (lambda: volume.fallocate(ino, 3, 5, 10)) if retires else volume.create
    arguments = () if retires else (ROOT_INO, b"new", REGULAR)
    if n > last:
        run(*arguments)
    else:
        with pytest.raises(HostError, match="the host cannot make the image durable"):
            run(*arguments)
        with pytest.raises(PmemfsError):
            volume.create(ROOT_INO, b"more", REGULAR)
        assert volume.is_read_only  # whatever errors= says
        assert b"".join(volume.read(ino, 0, 4)) == b"kept"
        assert "half-way" in reasons(caplog)[0]
    monkeypatch.undo()
    volume.close()
    validate_image(path)
    again = open_volume(path)
    assert [e.name for e in again.readdir(ROOT_INO) if e.name == b"more"] == []
    again.close()
    validate_image(path)


def test_a_failing_fsync(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    volume = open_volume(path)
    ino = volume.lookup(ROOT_INO, b"kept").ino
    volume.write(ino, 0, b"KEPT")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(HostError):
            volume.fsync(ino)
    assert volume.is_read_only
    with pytest.raises(HostError):
        volume.fsync(ino)
    volume.close()
    validate_image(path)
    with open_volume(path) as again:
        assert b"".join(again.read(ino, 0, 4)) == b"KEPT"


def test_an_abort_that_cannot_undo_all(bed: VolumeBed, caplog: pytest.LogCaptureFixture) -> None:
    """The rest is undone, and nothing is committed on what memory has then."""

    def broken() -> None:
        raise DamagedImageError("a test says so")

    def change() -> None:
        with volume.journal.transaction() as tx:
            tx.undo += [lambda: undone.append("first"), broken, lambda: undone.append("last")]
            raise PmemfsError(errno.ENOSPC, "no space")

    undone: list[str] = []
    volume = bed.make(errors="continue")
    with pytest.raises(PmemfsError) as caught:
        change()
    assert undone == ["last", "first"]
    assert volume.note_error(caught.value)
    with pytest.raises(PmemfsError, match="damage was found"):
        volume.create(ROOT_INO, b"f", REGULAR)
    assert "cannot be undone" in reasons(caplog)[0]
    volume.abandon()
