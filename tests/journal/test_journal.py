"""Transactions: the order of a commit, what an abort leaves, and what a replay accepts."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

import pytest

from pmemfs.device import Event, RecordingDevice
from pmemfs.errors import DamagedImageError, InvariantError, PmemfsError
from pmemfs.fs.format import format_image
from pmemfs.journal import Journal, SequenceWord, Transaction, read_transaction, recover
from pmemfs.journal.journal import COMMITTED_OFFSET, MAX_PAYLOAD_BYTES
from pmemfs.layout.geometry import JOURNAL_SLOT_BYTES, journal_slot_offset
from pmemfs.layout.records import JOURNAL_HEADER, NOTHING_TO_REPLAY, seal

SIZE = 64 << 20
HOME = 40 << 20
FRESH_PFN = (50 << 20) >> 12
SEQUENCE_WORD = 4096 + 64


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("journal")
    format_image(f"/proc/self/fd/{fd}", SIZE, force=True)
    yield fd
    os.close(fd)


@pytest.fixture
def device(fd: int) -> Iterator[RecordingDevice]:
    device = RecordingDevice(fd, SIZE)
    yield device
    device.close()


@pytest.fixture
def journal(device: RecordingDevice) -> Journal:
    return Journal(device, SequenceWord(device))


def places(events: list[Event]) -> list[str]:
    """Name what was stored, flushed and fenced, in order."""
    names = {COMMITTED_OFFSET: "committed", HOME: "home", HOME + 512: "other home",
             FRESH_PFN << 12: "fresh", SEQUENCE_WORD: "sequence word",
             journal_slot_offset(0): "slot 0", journal_slot_offset(1): "slot 1"}  # fmt: skip
    return [f"{e.kind} {names.get(e.offset, e.offset)}" if e.length else e.kind
            for e in events if e.kind != "back"]  # fmt: skip


def test_the_order_of_a_commit(device: RecordingDevice, journal: Journal) -> None:
    device.start()
    with journal.transaction() as tx:
        tx.put(HOME, b"record")
        tx.store(HOME + 512, b"bytes")
        tx.fresh_page(FRESH_PFN)[:5] = b"fresh"
        assert device.events == []  # nothing reaches the device before the commit
    assert places(device.stop()) == [
        "store fresh", "flush fresh", "store slot 1", "flush slot 1",
        "fence", "store committed", "flush committed", "fence",
        "store sequence word", "store home", "flush home", "store other home",
        "flush other home", "store sequence word",
    ]  # fmt: skip
    assert bytes(device.view[HOME : HOME + 6]) == b"record"
    assert journal.sequence == 1


def test_slots_alternate_and_an_empty_transaction_is_none(
    device: RecordingDevice, journal: Journal
) -> None:
    with journal.transaction() as tx:
        tx.put(HOME, b"1")
    with journal.transaction():
        pass
    assert journal.sequence == 1
    device.start()
    with journal.transaction() as tx:
        tx.put(HOME, b"2")
    assert places(device.stop())[:3] == ["store slot 0", "flush slot 0", "fence"]


def test_a_later_record_replaces_an_earlier_and_a_page_sees_its_patches(
    device: RecordingDevice, journal: Journal
) -> None:
    with journal.transaction() as tx:
        tx.put(HOME, b"first")
        tx.put(HOME, b"later")
        tx.set_word(FRESH_PFN, 3, 77)
        tx.patch(FRESH_PFN, 32, b"text")
        assert tx.word(FRESH_PFN, 3) == 77
        assert bytes(tx.page(FRESH_PFN)[24:36]) == (77).to_bytes(8, "little") + b"text"
        assert device.words[(FRESH_PFN << 9) + 3] == 0
    assert device.words[(FRESH_PFN << 9) + 3] == 77
    assert bytes(device.view[HOME : HOME + 5]) == b"later"
    assert device.counters.publishes == 1


def test_zeroing_is_retired_at_once(device: RecordingDevice, journal: Journal) -> None:
    device.store(HOME, b"x" * 100)
    with journal.transaction() as tx:
        tx.zero(HOME + 10, 80)
    assert bytes(device.view[HOME : HOME + 100]) == b"x" * 10 + bytes(80) + b"x" * 10
    assert device.words[COMMITTED_OFFSET >> 3] == 1 | NOTHING_TO_REPLAY
    assert recover(device) is None


def test_an_abort_leaves_the_device_as_it_was_and_undoes_backwards(
    device: RecordingDevice, journal: Journal
) -> None:
    undone: list[int] = []

    def attempt() -> None:
        with journal.transaction() as tx:
            tx.put(HOME, b"never")
            tx.fresh_page(FRESH_PFN)[:] = b"n" * 4096
            tx.undo.append(lambda: undone.append(1))
            tx.undo.append(lambda: undone.append(2))
            tx.after.append(lambda: undone.append(3))
            raise ZeroDivisionError

    device.start()
    with pytest.raises(ZeroDivisionError):
        attempt()
    assert device.stop() == []
    assert undone == [2, 1]
    assert journal.sequence == 0


def test_after_runs_when_it_is_durable(device: RecordingDevice, journal: Journal) -> None:
    seen: list[int] = []
    with journal.transaction() as tx:
        tx.put(HOME, b"1")
        tx.after.append(lambda: seen.append(device.words[COMMITTED_OFFSET >> 3]))
    assert seen == [1]


@pytest.mark.parametrize("extra", [0, 8])
def test_a_payload_too_large_is_an_invariant_and_stores_nothing(
    device: RecordingDevice, journal: Journal, extra: int
) -> None:
    data = bytes(MAX_PAYLOAD_BYTES - 16 + extra)

    def attempt() -> None:
        with journal.transaction() as tx:
            tx.store(HOME, data)

    device.start()
    if not extra:
        attempt()
        stores = [e for e in device.stop() if e.kind == "store"]
        assert max(e.length for e in stores) == JOURNAL_SLOT_BYTES
        return
    with pytest.raises(InvariantError, match="exceeds the journal slot"):
        attempt()
    assert device.stop() == []


def test_a_full_host_is_found_before_the_first_store(
    device: RecordingDevice, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    def attempt() -> None:
        with journal.transaction() as tx:
            tx.put(HOME, b"1")
            tx.fresh_page(FRESH_PFN)

    monkeypatch.setattr(os, "posix_fallocate", full)
    device.start()
    with pytest.raises(PmemfsError, match="no room under the image"):
        attempt()
    assert [e.kind for e in device.stop()] == ["back"]
    assert device.words[COMMITTED_OFFSET >> 3] == NOTHING_TO_REPLAY


# -- recovery ----------------------------------------------------------------------------------


def commit_without_homes(device: RecordingDevice, journal: Journal, fill: Transaction) -> None:
    """Leave what a crash right after the commit point leaves."""
    with journal.transaction() as tx:
        fill(tx)
    device.store(HOME, bytes(1024))


def three_entries(tx: Transaction) -> None:
    tx.put(HOME, b"record")
    tx.store(HOME + 512, b"odd")
    tx.store(HOME + 520, b"12345678")


def test_replay_stores_all_entries_and_retires(device: RecordingDevice, journal: Journal) -> None:
    commit_without_homes(device, journal, three_entries)
    device.start()
    replay = recover(device)
    assert replay == (1, 3, 17)
    assert places(device.stop())[-4:] == [
        "fence", "store committed", "flush committed", "fence"
    ]  # fmt: skip
    assert bytes(device.view[HOME : HOME + 6]) == b"record"
    assert bytes(device.view[HOME + 512 : HOME + 528]) == b"odd\0\0\0\0\0" + b"12345678"
    assert recover(device) is None
    assert Journal(device, SequenceWord(device)).sequence == 1


def test_replay_is_idempotent(device: RecordingDevice, journal: Journal) -> None:
    commit_without_homes(device, journal, three_entries)
    recover(device)
    once = bytes(device.view[HOME : HOME + 1024])
    device.publish(COMMITTED_OFFSET, 1)
    recover(device)
    assert bytes(device.view[HOME : HOME + 1024]) == once


def test_replay_zeroes(device: RecordingDevice, journal: Journal) -> None:
    with journal.transaction() as tx:
        tx.zero(HOME + 8, 100_000)
    device.store(HOME, b"x" * 100_016)
    device.publish(COMMITTED_OFFSET, 1)
    recover(device)
    assert bytes(device.view[HOME : HOME + 100_016]) == b"x" * 8 + bytes(100_000) + b"x" * 8


@pytest.mark.parametrize("place", [0, 8, 16, 20, 60, 64, 70, 100], ids=lambda p: f"byte{p}")
def test_a_damaged_slot_is_refused(device: RecordingDevice, journal: Journal, place: int) -> None:
    commit_without_homes(device, journal, three_entries)
    slot = journal_slot_offset(1)
    device.store(slot + place, bytes([device.view[slot + place] ^ 0x40]))
    device.start()
    with pytest.raises(DamagedImageError):
        recover(device)
    assert device.stop() == []


def test_a_slot_of_another_transaction_is_refused(
    device: RecordingDevice, journal: Journal
) -> None:
    commit_without_homes(device, journal, three_entries)
    device.publish(COMMITTED_OFFSET, 3)
    with pytest.raises(DamagedImageError, match="has lost its committed transaction 3"):
        read_transaction(device, 3)


def test_an_entry_outside_the_image_is_refused(device: RecordingDevice, journal: Journal) -> None:
    commit_without_homes(device, journal, three_entries)
    _reseal(device, offset=SIZE - 2)
    with pytest.raises(DamagedImageError, match="what no transaction may"):
        recover(device)


def test_more_entries_than_there_are_bytes_is_refused(
    device: RecordingDevice, journal: Journal
) -> None:
    commit_without_homes(device, journal, three_entries)
    _reseal(device, entries=4)
    with pytest.raises(DamagedImageError, match="ends before its last entry"):
        recover(device)


def _reseal(device: RecordingDevice, offset: int = HOME, entries: int = 3) -> None:
    """Let the first entry name another home, or the header other entries, with good checksums."""
    slot = journal_slot_offset(1)
    header = JOURNAL_HEADER.unpack(device.view, slot)
    size = header["payload_bytes"]
    payload = bytearray(device.view[slot + 64 : slot + 64 + size])
    payload[:8] = offset.to_bytes(8, "little")
    sealed = seal(
        JOURNAL_HEADER,
        sequence=1,
        payload_bytes=size,
        entries=entries,
        payload_checksum=zlib.crc32(payload),
    )
    device.store(slot, sealed + bytes(payload))
