"""The power-loss model, on recordings so small that the exact set of states is known; and the
device with ``persist=disk``: when it calls ``fdatasync``, and when the host fails to.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from pmemfs.device import Event, MappedDevice, PowerStates, RecordingDevice, SparseImage
from pmemfs.errors import PmemfsError

SIZE = 1 << 16
PAGE = 4096
ONE, TWO, OLD = b"11111111", b"22222222", b"\0" * 8
SYNC, FENCE = Event("sync"), Event("fence")


def store(offset: int, data: bytes) -> Event:
    return Event("store", offset, len(data), data)


def words_of(events: list[Event], *addresses: int, **more) -> list[set[tuple[bytes, ...]]]:
    """Return, by epoch, the set of what the words at these addresses may be."""
    epochs: dict[int, set[tuple[bytes, ...]]] = {}
    for state in PowerStates(SparseImage(SIZE), events, **more):
        epoch = int(state.id.split(".")[0])
        epochs.setdefault(epoch, set()).add(tuple(state.image.word(a) for a in addresses))
    return [epochs[epoch] for epoch in sorted(epochs)]


def test_a_store_is_durable_after_the_sync_only() -> None:
    events = [store(0, ONE), Event("flush", 0, 8), FENCE, SYNC]
    assert words_of(events, 0) == [{(OLD,), (ONE,)}, {(ONE,)}]


def test_a_page_is_written_whole_in_program_order() -> None:
    events = [store(8, ONE), store(1024, TWO)]
    assert words_of(events, 8, 1024) == [{(OLD, OLD), (ONE, OLD), (ONE, TWO)}]


def test_pages_are_written_in_any_order() -> None:
    events = [store(0, ONE), FENCE, store(PAGE, TWO)]
    assert words_of(events, 0, PAGE) == [{(OLD, OLD), (ONE, OLD), (OLD, TWO), (ONE, TWO)}]


def test_a_page_may_be_written_in_the_midst_of_a_store() -> None:
    events = [store(PAGE - 8, ONE + TWO), store(2 * PAGE, ONE + TWO)]
    found = words_of(events, PAGE - 8, PAGE, 2 * PAGE, 2 * PAGE + 8)[0]
    assert (OLD, TWO) in {f[:2] for f in found}  # it crosses pages
    assert {f[2:] for f in found} == {(OLD, OLD), (ONE, OLD), (ONE, TWO)}


def test_a_discard_lands_or_not_until_the_sync() -> None:
    events = [store(0, ONE), SYNC, Event("discard", 0, PAGE), SYNC]
    assert words_of(events, 0) == [{(OLD,), (ONE,)}, {(ONE,), (OLD,)}, {(OLD,)}]


def test_what_was_stored_before_a_discard_may_have_been_written() -> None:
    events = [store(0, ONE), Event("discard", 0, PAGE), store(0, TWO)]
    assert words_of(events, 0) == [{(OLD,), (ONE,), (TWO,)}]


def test_transient_pages_are_written_together() -> None:
    events = [store(0, ONE), store(PAGE, ONE), store(2 * PAGE, ONE)]
    found = words_of(events, 0, PAGE, 2 * PAGE, transient=[(0, 2 * PAGE)])[0]
    assert {f[:2] for f in found} == {(OLD, OLD), (ONE, ONE)}
    assert len(found) == 4


def test_ids_bring_states_back() -> None:
    events = [store(n * PAGE, ONE + TWO) for n in range(10)]
    states = PowerStates(SparseImage(SIZE), events, exhaustive_limit=4, samples=5)
    for state in states:
        assert states.replay(state.id).image.pages == state.image.pages


# -- the device ---------------------------------------------------------------------------------


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("pmemfs-test")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def device(fd: int) -> Iterator[RecordingDevice]:
    device = RecordingDevice(fd, SIZE)
    device.persist_on_disk()
    device.start()
    yield device
    device.close()


def kinds(device: RecordingDevice) -> list[str]:
    return [event.kind for event in device.events]


def test_a_fence_syncs_what_was_flushed(device: RecordingDevice) -> None:
    device.fence()
    device.store(0, ONE)
    device.fence()
    device.flush(0, 8)
    device.fence()
    device.fence()
    device.discard(PAGE, PAGE)
    device.fence()
    assert kinds(device) == [
        *("fence", "store", "fence", "flush", "fence", "sync"),
        *("fence", "discard", "fence", "sync"),
    ]


def test_two_publishes_in_a_row_sync_three_times(device: RecordingDevice) -> None:
    device.store(0, ONE)
    device.flush(0, 8)
    device.publish(64, 1)
    device.publish(128, 2)
    device.sync()
    assert kinds(device).count("sync") == device.counters.syncs - 1 == 3


def test_in_cache_only_sync_syncs(fd: int) -> None:
    device = RecordingDevice(fd, SIZE)
    device.start()
    device.publish(0, 1)
    device.sync()
    device.sync()
    device.persist_on_disk()
    device.publish(0, 1)
    device.persist_in_cache()
    device.publish(0, 2)
    assert device.counters.syncs == 3 + 1
    device.close()


def test_a_host_that_fails_to_sync_is_not_believed_again(
    device: MappedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    device.store(0, ONE)
    device.flush(0, 8)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(PmemfsError, match="the host cannot make the image durable") as info:
            device.fence()
        assert info.value.errno == errno.EIO
    for call in (device.fence, device.sync):
        with pytest.raises(PmemfsError, match="the host cannot"):
            call()
