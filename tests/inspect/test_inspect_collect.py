"""Reading beside a daemon: the sequence word, retries, and no trace left on the image."""

import fcntl
import os
import threading

import pytest
from hand_built import daemon

from pmemfs.errors import DamagedImageError, PmemfsError
from pmemfs.inspect import Reader, collect, usage
from pmemfs.inspect.collect import MAX_TRIES
from pmemfs.inspect.reader import MAX_REMARKS
from pmemfs.layout.records import CONTROL, Kind


@pytest.fixture
def live(built):
    with daemon(built.path):
        yield built


def test_a_view_is_taken_again_when_things_moved(live):
    taken = []

    def view(reader):
        taken.append(reader.control["sequence"])
        if len(taken) < 3:
            live.control(sequence=2 * len(taken))
        return {}

    with Reader(live.path) as reader:
        assert collect(reader, view)["consistent"] is True
    assert taken == [0, 2, 4]


def test_an_odd_sequence_is_waited_for(live):
    live.control(sequence=3)
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 4:
            live.control(sequence=4)

    with Reader(live.path) as reader:
        assert collect(reader, usage, sleep=sleep)["consistent"] is True
    assert len(pauses) == 4


def test_it_gives_up_and_says_so(live):
    live.control(sequence=3)
    pauses = []
    with Reader(live.path) as reader:
        data = collect(reader, usage, sleep=pauses.append)
    assert data["consistent"] is False
    assert data["extents"]["total"] == 32
    assert len(pauses) == MAX_TRIES - 1


def test_it_gives_up_on_a_slow_view(live):
    times = iter(range(100))
    with Reader(live.path) as reader:

        def view(reader):
            live.control(sequence=reader.control["sequence"] + 2)
            return {}

        data = collect(reader, view, clock=lambda: next(times))
    assert data["consistent"] is False
    assert next(times) < 6


def test_an_error_of_a_moving_image_is_tried_again(live):
    def view(reader):
        if reader.control["sequence"] == 0:
            live.control(sequence=2)
            raise DamagedImageError("torn")
        return {"seen": reader.control["sequence"]}

    with Reader(live.path) as reader:
        assert collect(reader, view)["seen"] == 2


def test_an_error_of_a_resting_image_is_raised(live):
    def view(reader):
        raise DamagedImageError("broken")

    with Reader(live.path) as reader, pytest.raises(PmemfsError, match="broken"):
        collect(reader, view)


def test_a_dead_daemon_may_have_left_an_odd_sequence(built):
    built.control(sequence=3)
    with Reader(built.path) as reader:
        assert collect(reader, usage)["consistent"] is True


def test_a_passing_remark_beside_a_daemon_is_forgotten(live):
    tries = []

    def view(reader):
        tries.append(1)
        if len(tries) == 1:
            reader.remark("a descriptor moved")
        return {}

    with Reader(live.path) as reader:
        assert collect(reader, view)["remarks"] == []
    assert len(tries) == 2


def test_remarks_are_bounded(built):
    def view(reader):
        for number in range(1000):
            reader.remark(str(number))
        return {}

    with Reader(built.path) as reader:
        remarks = collect(reader, view)["remarks"]
    assert len(remarks) == MAX_REMARKS + 1
    assert remarks[-1] == f"and {1000 - MAX_REMARKS} more remarks"


def test_a_shared_lock_is_no_daemon(built):
    fd = os.open(built.path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    with Reader(built.path) as reader:
        assert collect(reader, usage)["live"] is False
    os.close(fd)


def test_the_probe_leaves_no_lock(built):
    with Reader(built.path) as reader:
        collect(reader, usage)
        with daemon(built.path):
            assert collect(reader, usage)["live"] is True
        assert collect(reader, usage)["live"] is False


def test_a_clean_image_is_not_probed(built, monkeypatch):
    monkeypatch.setattr("pmemfs.inspect.reader.is_locked", lambda fd: pytest.fail("probed"))
    with Reader(built.path) as reader:
        assert collect(reader, usage)["live"] is False


def test_a_file_cut_short_is_an_error(built):
    with Reader(built.path) as reader:
        os.ftruncate(built.fd, 3 << 20)
        with pytest.raises(DamagedImageError, match="cut short"):
            reader.read(40 << 20, 4096)


@pytest.mark.parametrize("midst", [False, True])
def test_a_view_of_a_file_cut_short_is_an_error(built, midst):
    """Before the view, or in the midst of it: heads that are gone must not pass for free ones."""

    def cut(reader):
        os.ftruncate(built.fd, 3 << 20)
        return {}

    with Reader(built.path) as reader:
        if not midst:
            cut(reader)
        with pytest.raises(DamagedImageError, match="cut short to 3145728 of"):
            collect(reader, cut if midst else usage)


def swap_forever(built, stop):
    """Move a whole extent between two places, warning readers as the engine does."""
    place = 4096 + CONTROL.offset_of["sequence"]
    sequence = 0
    while not stop.is_set():
        to, away = (6, 7) if sequence % 4 else (7, 6)
        built.store(place, (sequence + 1).to_bytes(8, "little"))
        built.head(away, Kind.FREE)
        built.head(to, Kind.WHOLE, owner=2)
        sequence += 2
        built.store(place, sequence.to_bytes(8, "little"))
        stop.wait(0.002)


def test_a_writer_is_never_seen_half_done(live):
    live.head(6, Kind.WHOLE, owner=2)
    stop = threading.Event()
    writer = threading.Thread(target=swap_forever, args=(live, stop))
    writer.start()
    try:
        with Reader(live.path) as reader:
            seen = [collect(reader, usage) for _ in range(30)]
    finally:
        stop.set()
        writer.join()
    assert any(data["consistent"] for data in seen)
    assert {data["extents"]["whole"] for data in seen if data["consistent"]} == {1}
