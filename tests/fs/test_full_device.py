"""A full device, and a full host: an operation fails whole, and what makes room always works."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest
from full_device import Snapshot, content, fill, furnish, use_up_open_extents
from volumes import (
    REGULAR,
    HostDevice,
    VolumeBed,
    idle,
    remove_tree,
    validate_empty,
    validate_volume,
)

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import EXTENT_BYTES, PAGE_BYTES
from pmemfs.units import MIB, TIB

PUNCH = 3

# what needs space that is not there; each is called with the volume and the inodes by name
NEED_SPACE: dict[str, Callable[[Volume, dict[str, int]], object]] = {
    "symlink": lambda v, i: v.symlink(ROOT_INO, b"new", b"t" * 137),
    "create in a full leaf": lambda v, i: [
        v.create(i["dir"], b"%d" % n + b"m" * 250, REGULAR) for n in range(60)
    ],
    "link in a full leaf": lambda v, i: [
        v.link(i["small"], i["dir"], b"%d" % n + b"m" * 250) for n in range(60)
    ],
    "rename into a full leaf": lambda v, i: [
        v.rename(i["dir"], b"%02d" % n + b"n" * 220, i["empty"], b"%d" % n + b"m" * 250)
        for n in range(16)
    ],
    "first name of a directory": lambda v, i: v.mkdir(i["empty"], b"sub", 0o755),
    "setxattr": lambda v, i: v.setxattr(i["small"], b"user.a", b"x"),
    "replace xattr": lambda v, i: v.setxattr(i["tree"], b"user.a", b"y"),
    "append": lambda v, i: v.write(i["small"], 3 * PAGE_BYTES, b"x" * 100_000),
    "fill a hole": lambda v, i: v.write(i["tree"], PAGE_BYTES, b"x"),
    "write far": lambda v, i: v.write(i["whole"], TIB, b"x"),
    "fallocate": lambda v, i: v.fallocate(i["small"], 0, 0, 3 * MIB),
    "fallocate far": lambda v, i: v.fallocate(i["whole"], 0, TIB, 1),
    "keep size": lambda v, i: v.fallocate(i["whole"], 1, 20 * MIB, 8 * MIB),
}

# what never needs any
MAKE_ROOM: dict[str, Callable[[Volume, dict[str, int]], object]] = {
    "unlink small": lambda v, i: v.unlink(ROOT_INO, b"small"),
    "unlink whole": lambda v, i: v.unlink(ROOT_INO, b"whole"),
    "unlink tree": lambda v, i: v.unlink(ROOT_INO, b"tree"),
    "unlink link": lambda v, i: v.unlink(ROOT_INO, b"link"),
    "unlink the filler": lambda v, i: v.unlink(ROOT_INO, b"filler"),
    "rmdir": lambda v, i: v.rmdir(ROOT_INO, b"empty"),
    "rename over": lambda v, i: v.rename(ROOT_INO, b"small", ROOT_INO, b"tree"),
    "exchange": lambda v, i: v.rename(ROOT_INO, b"small", ROOT_INO, b"tree", 2),
    "truncate small": lambda v, i: v.setattr(i["small"], size=5),
    "truncate whole": lambda v, i: v.setattr(i["whole"], size=2 * MIB + 5),
    "truncate tree": lambda v, i: v.setattr(i["tree"], size=PAGE_BYTES * 31),
    "truncate the filler": lambda v, i: v.setattr(i["filler"], size=1),
    "extend": lambda v, i: v.setattr(i["small"], size=TIB),
    "punch small": lambda v, i: v.fallocate(i["small"], PUNCH, 4096, 4096),
    "punch whole": lambda v, i: v.fallocate(i["whole"], PUNCH, 5, 4 * MIB),
    "punch tree": lambda v, i: v.fallocate(i["tree"], PUNCH, 0, 30 * PAGE_BYTES),
    "punch the filler": lambda v, i: v.fallocate(i["filler"], PUNCH, 7, 40 * MIB),
    "overwrite small": lambda v, i: v.write(i["small"], 0, b"o" * 10_000),
    "overwrite whole": lambda v, i: v.write(i["whole"], 0, b"o" * 5 * MIB),
    "remove the xattr": lambda v, i: v.removexattr(i["tree"], b"user.a"),
    "setattr": lambda v, i: v.setattr(i["small"], mode=0o600, uid=7),
    "read": lambda v, i: [v.read(i["tree"], n << 12, 4096) for n in range(80)],
    "fsync": lambda v, i: v.fsync(i["whole"]),
}


def expect_no_space(volume: Volume, call: Callable[[], object]) -> None:
    with pytest.raises(PmemfsError) as caught:
        call()
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("name", NEED_SPACE)
def test_no_space_on_the_device(bed: VolumeBed, name: str) -> None:
    volume = bed.make()
    inodes = furnish(volume)
    fill(volume)
    before = content(volume)
    expect_no_space(volume, lambda: NEED_SPACE[name](volume, inodes))
    changed = _keys_changed(before, content(volume))
    assert all(_may_change(name, path) for path in changed), changed
    assert volume.pool.free_pages == 0


def _keys_changed(before: Snapshot, after: Snapshot) -> set[bytes]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def _may_change(name: str, path: bytes) -> bool:
    """Calls in a row may do some before space is out; what each did is whole."""
    return "full leaf" in name and path.startswith((b"/dir", b"/empty", b"/small"))


@pytest.mark.parametrize("name", MAKE_ROOM)
def test_what_needs_no_space_on_a_full_device(
    bed: VolumeBed, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 100 %, on a host without a free byte, and also after a crash and a new mount."""
    for crash in (False, True):
        volume = bed.make(device_class=HostDevice)
        inodes = furnish(volume)
        inodes["filler"] = fill(volume)
        monkeypatch.setattr(HostDevice, "full", True)
        if crash:
            volume = bed.reopen(volume, crash=True)
        MAKE_ROOM[name](volume, inodes)
        idle(volume)
        validate_volume(volume)
        monkeypatch.setattr(HostDevice, "full", False)


def test_everything_is_deleted_from_a_full_device(bed: VolumeBed) -> None:
    volume = bed.make(device_class=HostDevice)
    free = volume.pool.free_pages
    furnish(volume)
    fill(volume)
    HostDevice.full = True
    try:
        volume = bed.reopen(volume, crash=True)
        remove_tree(volume)
        idle(volume)
        validate_empty(volume)
        assert volume.pool.free_pages == free
        volume = bed.reopen(volume)
    finally:
        HostDevice.full = False
    fill(volume)


def test_a_write_takes_what_there_is(volume: Volume) -> None:
    """The bytes that fit are written and counted, as Linux does."""
    inodes = furnish(volume)
    filler = fill(volume)
    volume.fallocate(filler, PUNCH, 0, 2 * EXTENT_BYTES)
    idle(volume)
    done = volume.write(inodes["small"], 4 * MIB, b"w" * 8 * MIB)
    assert 3 * MIB < done <= 4 * MIB
    assert done % PAGE_BYTES == 0
    assert volume.inode(inodes["small"]).size == 4 * MIB + done
    pieces = volume.read(inodes["small"], 4 * MIB, done)
    assert set(b"".join(pieces)) == {ord("w")}
    assert volume.pool.free_extents == 0


def test_a_write_across_two_pages_may_stop_between_them(volume: Volume) -> None:
    inodes = furnish(volume)
    fill(volume)
    size = volume.inode(inodes["victim"]).size
    assert volume.write(inodes["victim"], size - 100, b"w" * 200) == 100
    assert volume.inode(inodes["victim"]).size == size
    expect_no_space(volume, lambda: volume.write(inodes["victim"], size, b"w"))


@pytest.mark.parametrize("name", NEED_SPACE)
def test_space_of_orphans_is_used_before_a_call_fails(bed: VolumeBed, name: str) -> None:
    volume = bed.make()
    inodes = furnish(volume)
    filler = fill(volume)
    volume.hold(filler)
    volume.unlink(ROOT_INO, b"filler")
    volume.inodes.holds.drop(filler)  # what `release` would free comes with the next idle step
    assert volume.pool.free_pages == 0
    assert volume.inode(filler) in volume.orphans
    NEED_SPACE[name](volume, inodes)
    assert not volume.orphans
    validate_volume(volume)


def test_statfs_is_true_to_the_page(volume: Volume) -> None:
    """What `df` says is free can be written to the last page."""
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    status = volume.statfs()
    assert status.pages == volume.geometry.n_pages
    fixed_and_root_leaf = (volume.geometry.fixed_extents + 1) * 512
    assert status.free_pages == status.pages - fixed_and_root_leaf
    done = volume.write(ino, 0, b"x" * status.free_pages * PAGE_BYTES)
    assert done == status.free_pages * PAGE_BYTES
    assert volume.statfs().free_pages == 0
    assert status.inodes - status.free_inodes == 2


# -- the host ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEED_SPACE)
def test_no_space_on_the_host(bed: VolumeBed, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Much is free here, but the host has nothing: ENOSPC, nothing done, nothing leaked."""
    volume = bed.make(device_class=HostDevice, threshold_pages=512)
    inodes = furnish(volume)
    use_up_open_extents(volume)
    before, free = content(volume), volume.pool.free_pages
    monkeypatch.setattr(HostDevice, "full", True)
    refused = HostDevice.refused
    expect_no_space(volume, lambda: NEED_SPACE[name](volume, inodes))
    assert HostDevice.refused > refused
    changed = _keys_changed(before, content(volume))
    assert all(_may_change(name, path) for path in changed), changed
    if not changed:
        assert volume.pool.free_pages == free
    validate_volume(volume)
    monkeypatch.setattr(HostDevice, "full", False)
    NEED_SPACE["setxattr"](volume, inodes)
    volume = bed.reopen(volume)
    remove_tree(volume)
    idle(volume)
    validate_empty(volume)


def test_a_split_never_fails_on_a_full_host(bed: VolumeBed) -> None:
    """Reading 70 small extents with only the reserve to hold tables."""
    volume = bed.make(256 * MIB, device_class=HostDevice, threshold_pages=512)
    inos = []
    for number in range(70):
        inos.append(volume.create(ROOT_INO, b"%d" % number, REGULAR).ino)
        volume.write(inos[-1], 0, b"x" * 511 * PAGE_BYTES)
    volume = bed.reopen(volume)
    HostDevice.full = True
    try:
        for ino in [*inos, *reversed(inos)]:
            assert len(volume.read(ino, 0, PAGE_BYTES)) == 1
        assert volume.tables is not None
        assert volume.tables.split_extents == 64
        assert volume.tables.stolen > 0
        volume.write(inos[3], 0, b"overwritten")
        idle(volume)
        assert volume.tables.split_extents == 0
    finally:
        HostDevice.full = False


@pytest.mark.parametrize("seed", range(3))
def test_a_host_that_is_full_now_and_then(bed: VolumeBed, seed: int) -> None:
    """Whatever fails, fails whole: nothing is lost, nothing leaks."""
    rng = random.Random(seed)
    volume = bed.make(device_class=HostDevice, threshold_pages=16)
    free = volume.pool.free_pages
    model: dict[bytes, bytes] = {}
    try:
        for number in range(300):
            HostDevice.full = rng.random() < 0.5
            name = b"%d" % rng.randrange(30)
            data = b"%05d" % number * rng.randrange(1, 40_000)
            try:
                if name not in model:
                    volume.create(ROOT_INO, name, REGULAR)
                    model[name] = b""
                ino = volume.lookup(ROOT_INO, name).ino
                done = volume.write(ino, 0, data)
                model[name] = data[:done] + model[name][done:]
            except PmemfsError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017
                if model and rng.random() < 0.5:
                    victim = rng.choice(sorted(model))
                    volume.unlink(ROOT_INO, victim)
                    del model[victim]
                idle(volume, discard=rng.random() < 0.5)
            validate_volume(volume)
    finally:
        HostDevice.full = False
    for name, data in model.items():
        ino = volume.lookup(ROOT_INO, name).ino
        assert b"".join(volume.read(ino, 0, 1 << 24)) == data
    remove_tree(volume)
    idle(volume)
    validate_empty(volume)
    assert volume.pool.free_pages == free


def test_mounting_on_a_full_host(bed: VolumeBed) -> None:
    """What a mount needs was backed by the first; a fresh copy of an image may have no room."""
    volume = bed.make(device_class=HostDevice)
    furnish(volume)
    HostDevice.full = True
    try:
        volume = bed.reopen(volume)
        volume = bed.reopen(volume, crash=True)
        HostDevice._units.clear()
        volume.close()
        with pytest.raises(PmemfsError) as caught:
            bed.reopen(volume)
        assert caught.value.errno == errno.ENOSPC
    finally:
        HostDevice.full = False
