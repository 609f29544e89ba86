"""The seam: what each verb does to the file, and what it counts."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from pmemfs.device import Counters, Event, MappedDevice, RecordingDevice
from pmemfs.device import private as private_mapping
from pmemfs.errors import DamagedImageError, HostError, PmemfsError

UNIT = 2 << 20
SIZE = 4 * UNIT


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("device")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def device(fd: int) -> Iterator[MappedDevice]:
    device = MappedDevice(fd, SIZE)
    yield device
    device.close()


def counted(device: MappedDevice) -> dict[str, int]:
    return {k: v for k in Counters.__slots__ if (v := getattr(device.counters, k))}


def test_a_store_reaches_the_file(fd: int, device: MappedDevice) -> None:
    device.store(UNIT - 3, b"across")
    assert os.pread(fd, 6, UNIT - 3) == b"across" == bytes(device.view[UNIT - 3 : UNIT + 3])
    assert counted(device) == {"stores": 1, "bytes_stored": 6}


@pytest.mark.parametrize(
    ("offset", "length", "lines"), [(0, 64, 1), (0, 65, 2), (63, 2, 2), (64, 1, 1), (60, 136, 4)]
)
def test_a_flush_counts_its_lines(
    device: MappedDevice, offset: int, length: int, lines: int
) -> None:
    device.flush(offset, length)
    assert counted(device) == {"flushes": 1, "lines_flushed": lines}


def test_publish_is_a_word_between_two_fences(fd: int, device: MappedDevice) -> None:
    device.publish(64, 0x0102030405060708)
    assert os.pread(fd, 8, 64) == bytes([8, 7, 6, 5, 4, 3, 2, 1])
    assert counted(device) == {
        "stores": 1, "bytes_stored": 8, "flushes": 1, "lines_flushed": 1, "fences": 2,
        "publishes": 1,
    }  # fmt: skip


def test_counters_are_compared_by_difference(device: MappedDevice) -> None:
    device.store(0, b"1")
    before = device.counters.copy()
    device.store(0, b"22")
    device.fence()
    assert device.counters.since(before) == Counters(stores=1, bytes_stored=2, fences=1)


def test_views_are_read_only(device: MappedDevice) -> None:
    with pytest.raises(TypeError):
        device.view[0] = 1  # type: ignore[index]
    with pytest.raises(TypeError):
        device.words[0] = 1  # type: ignore[index]
    assert not np.frombuffer(device.view, "<u8", 4).flags.writeable


def test_words_are_little_endian_and_live(device: MappedDevice) -> None:
    words = device.words
    device.store(8, (12345).to_bytes(8, "little"))
    assert words[1] == 12345


def test_back_allocates_each_unit_once_and_keeps_what_is_there(device: MappedDevice) -> None:
    device.store(10, b"kept")
    device.back(UNIT - 1, 2)
    assert device.host_bytes == 2 * UNIT
    assert bytes(device.view[10:14]) == b"kept"
    device.back(0, 2 * UNIT)
    assert device.counters.backs == 2
    device.discard(0, UNIT)
    device.back(0, 1)
    assert device.counters.backs == 3


def test_back_on_a_full_host_is_enospc_and_can_be_tried_again(
    device: MappedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(PmemfsError, match="no room under the image") as caught:
            device.back(UNIT, 1)
        assert (caught.value.errno, caught.value.offset) == (errno.ENOSPC, UNIT)
    device.back(UNIT, 1)
    assert device.host_bytes == UNIT


def test_an_image_cut_short_is_not_made_longer_again(fd: int, device: MappedDevice) -> None:
    """Neither by new space, nor by what is written into space that is there; nor is it durable."""
    device.back(0, UNIT)
    os.ftruncate(fd, UNIT // 2)
    for call in (
        lambda: device.back(UNIT, 1),
        lambda: device.store_fresh(UNIT // 2, bytes(1 << 16)),
        device.sync,
    ):
        with pytest.raises(DamagedImageError, match="cut short to 1048576 of"):
            call()
    assert os.fstat(fd).st_size == UNIT // 2


def test_discard_gives_host_space_back_and_reads_as_zero(device: MappedDevice) -> None:
    device.back(0, 2 * UNIT)
    device.store(UNIT + 5, b"gone")
    device.store(5, b"kept")
    device.discard(UNIT, UNIT)
    assert bytes(device.view[UNIT + 5 : UNIT + 9]) == bytes(4)
    assert bytes(device.view[5:9]) == b"kept"
    assert device.counters.discards == 1


def test_iter_data_skips_holes_and_is_cut_to_the_range(device: MappedDevice) -> None:
    device.store(UNIT, b"a")
    device.store(3 * UNIT + 8192, b"b")
    found = list(device.iter_data(0, SIZE))
    assert found == [(UNIT, UNIT + 4096), (3 * UNIT + 8192, 3 * UNIT + 12288)]
    assert list(device.iter_data(UNIT + 100, UNIT + 200)) == [(UNIT + 100, UNIT + 200)]
    assert list(device.iter_data(2 * UNIT, 3 * UNIT)) == []


def test_a_page_is_asked_about_without_seeking_the_next_hole(
    device: MappedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That looks at all pages of a tmpfs up to it: a million pages, a million times."""
    device.store(0, bytes(2 * UNIT))
    asked: list[int] = []
    seek = os.lseek

    def counted(fd: int, position: int, how: int) -> int:
        asked.append(how)
        return seek(fd, position, how)

    monkeypatch.setattr(os, "lseek", counted)
    for start, stop in [(0, 4096), (8192, 12288), (UNIT + 100, UNIT + 200)]:
        assert list(device.iter_data(start, stop)) == [(start, stop)]
    assert asked == [os.SEEK_DATA] * 3


def test_holes_of_a_tmpfs_are_read_as_zeros_and_take_no_space(fd: int) -> None:
    """A memory file is one of a tmpfs, where a read of a hole through the mapping takes space."""
    for private in (False, True):
        device = MappedDevice(fd, SIZE, private=private)
        device.store(4096, b"a" * 4096)
        device.store(UNIT + 8192, b"b" * 10)
        before = device.host_bytes
        assert device.may_have_holes(0, 10) != private
        assert device.may_have_holes(3 * UNIT, UNIT) != private
        found = [bytes(piece) for piece in device.pieces(4090, 4096 + 12)]
        assert found == [bytes(6), b"a" * 4096, bytes(6)]
        assert b"".join(device.pieces(0, SIZE)) == (
            bytes(4096) + b"a" * 4096 + bytes(UNIT) + b"b" * 10 + bytes(SIZE - UNIT - 8202)
        )
        assert device.host_bytes == before
        device.close()


def test_a_unit_without_holes_is_asked_about_once(device: MappedDevice) -> None:
    device.store(UNIT, b"x" * UNIT)
    assert device.solid is not None
    assert not device.solid[1]
    assert not device.may_have_holes(UNIT + 5, 100)
    assert device.solid[1]
    device.discard(UNIT, UNIT)
    assert device.may_have_holes(UNIT, 1)
    device.back(UNIT, 1)
    assert not device.may_have_holes(UNIT, UNIT)


def test_a_private_mapping_never_changes_the_file(fd: int) -> None:
    os.pwrite(fd, b"before", 100)
    device = MappedDevice(fd, SIZE, private=True)
    device.store(100, b"inside")
    device.back(UNIT, UNIT)
    device.store(UNIT, b"more")
    assert bytes(device.view[100:106]) == b"inside"
    assert list(device.iter_data(UNIT, 2 * UNIT)) == [(UNIT, UNIT + 4096)]
    device.publish(0, 7)
    device.discard(UNIT, UNIT)
    device.sync()
    assert bytes(device.view[UNIT : UNIT + 4]) == bytes(4)
    device.close()
    assert os.pread(fd, 6, 100) == b"before"
    assert os.pread(fd, 8, 0) == os.pread(fd, 8, UNIT) == bytes(8)


def test_a_private_mapping_takes_no_space_of_a_tmpfs(fd: int) -> None:
    """Wherever it is read and stored to: holes of the file are not allocated for it."""
    os.pwrite(fd, b"there", UNIT + 8192)
    before = os.fstat(fd).st_blocks
    device = MappedDevice(fd, SIZE, private=True)
    assert bytes(device.view) == bytes(UNIT + 8192) + b"there" + bytes(SIZE - UNIT - 8197)
    for place in range(0, SIZE, 8192):
        device.store(place + 100, b"stored")
    device.discard(UNIT, UNIT)
    assert bytes(device.view[100:106]) == b"stored"
    assert not any(device.view[UNIT : 2 * UNIT])
    device.close()
    assert os.fstat(fd).st_blocks == before
    assert os.pread(fd, 5, UNIT + 8192) == b"there"


def test_a_private_mapping_of_very_many_pieces(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_mapping, "_MOST_PIECES", 3)
    for place in range(0, SIZE, UNIT):
        os.pwrite(fd, b"piece", place + 4096)
    device = MappedDevice(fd, SIZE, private=True)
    for place in range(0, SIZE, UNIT):
        assert bytes(device.view[place + 4096 : place + 4102]) == b"piece\0"
    device.close()


def test_close_works_while_a_view_lives_and_twice(fd: int) -> None:
    device = MappedDevice(fd, SIZE)
    column = np.frombuffer(device.view, "<u8", 8)
    device.close()
    device.close()
    assert column[0] == 0
    os.fstat(fd)  # the caller keeps its own descriptor


def test_a_file_that_cannot_be_mapped_is_an_error_of_ours(tmp_path) -> None:
    path = tmp_path / "empty"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    with pytest.raises(PmemfsError, match="cannot map"):
        MappedDevice(fd, SIZE)
    os.close(fd)


def test_a_recording_has_every_call_in_order(fd: int) -> None:
    device = RecordingDevice(fd, SIZE)
    device.store(0, b"not recorded")
    device.start()
    device.store(8, memoryview(b"12345678"))
    device.flush(8, 8)
    device.publish(64, 1)
    device.back(UNIT, 1)
    device.discard(UNIT, UNIT)
    device.sync()
    events = device.stop()
    device.store(0, b"not recorded")
    assert events == [
        Event("store", 8, 8, b"12345678"),
        Event("flush", 8, 8),
        Event("fence"),
        Event("store", 64, 8, (1).to_bytes(8, "little")),
        Event("flush", 64, 8),
        Event("fence"),
        Event("back", UNIT, UNIT),
        Event("discard", UNIT, UNIT),
        Event("sync"),
    ]
    device.close()


def test_who_syncs_beside_one_that_fails_is_told_too(
    device: MappedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host tells an error once, to the first that asks."""
    asked, go = threading.Event(), threading.Event()

    def fdatasync(fd: int) -> None:
        if asked.is_set():
            return
        asked.set()
        assert go.wait(10)
        raise OSError(errno.EIO, "Input/output error")

    def sync() -> None:
        try:
            device.sync()
            told.append("durable")
        except HostError:
            told.append("failed")

    told: list[str] = []
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    first = threading.Thread(target=sync)
    first.start()
    assert asked.wait(10)
    second = threading.Thread(target=sync)
    second.start()
    second.join(0.2)
    go.set()
    first.join(10)
    second.join(10)
    assert told == ["failed", "failed"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_host_without_room_is_enospc(
    device: MappedDevice, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(PmemfsError) as caught:
        device.back(0, 1)
    assert caught.value.errno == errno.ENOSPC


def test_on_a_full_host_the_pages_of_a_range_will_do(
    device: MappedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def refuse_units(fd: int, offset: int, length: int) -> None:
        asked.append((offset, length))
        if length > 8192:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse_units)
    device.back(4095, 2)
    device.back(4095, 2)
    unit = min(2 << 20, device.size_bytes)
    assert asked == [(0, unit), (0, 8192)] * 2
