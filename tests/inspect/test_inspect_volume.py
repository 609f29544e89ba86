"""The views of images that the engine made: they agree with it, live and after a crash."""

import os
import random
import stat
import threading

import pytest

from pmemfs.fs import Options, Volume
from pmemfs.inspect import Reader, collect, extent, extents, file, free, journal, page, usage

MIB = 1 << 20
REG = stat.S_IFREG | 0o644
ROOT = 1


@pytest.fixture
def path(tmp_path):
    image = tmp_path / "disk.img"
    Volume.format(image, 256 * MIB, label="tested")
    return image


@pytest.fixture
def volume(path):
    with Volume.open(path) as opened:
        yield opened


def take(path, view, *arguments, **options):
    with Reader(path) as reader:
        return collect(reader, lambda reader: view(reader, *arguments, **options))


def fill(volume, dice):
    """Make files of all shapes; return their content by path."""
    content = {}
    directory = volume.mkdir(ROOT, b"dir", 0o755)
    for number in range(300):
        name = b"%d-" % number + dice.randbytes(9).translate(None, b"/\0")
        inode = volume.create(directory.ino, name, REG)
        content[b"/dir/" + name] = dice.randbytes(dice.randrange(1, 40000))
        volume.write(inode.ino, 0, content[b"/dir/" + name])
    for name, offsets in {
        b"large": range(0, 9 * MIB, MIB),
        b"sparse": range(0, 200 * MIB, 3 * MIB),
        b"far": (5, 3 * MIB, 1 << 43),
    }.items():
        inode = volume.create(ROOT, name, REG)
        for offset in offsets:
            volume.write(inode.ino, offset, dice.randbytes(MIB if name == b"large" else 5000))
    return content


def check_agrees(path, volume):
    data = take(path, usage)
    assert data["remarks"] == []
    assert data["free_bytes"] == volume.statfs().free_pages * 4096
    assert data["free_bytes"] == take(path, free)["free_bytes"]
    assert data["inodes"] == volume.inodes.in_use
    assert data["split_extents"] == volume.tables.split_extents
    assert data["extents"]["returned"] <= data["extents"]["free"]
    rows = take(path, extents, all_rows=True)["extents"]
    for name in ("whole", "small", "descriptor", "returned"):
        count = sum(row["count"] for row in rows if row["kind"] == name)
        assert count == data["extents"][name]
    return data


def test_an_empty_volume(path, volume):
    data = check_agrees(path, volume)
    assert (data["files"], data["live"], data["used_bytes"]) == (0, True, 8 * MIB)


def test_usage_agrees_with_the_engine(path, volume):
    fill(volume, random.Random(1))
    data = check_agrees(path, volume)
    assert data["split_extents"] > 0
    assert data["page_descriptors"] > 0
    for number in range(128):
        assert take(path, extent, number)["remarks"] == []
    entries = [entry.name for entry in volume.readdir(volume.resolve(b"/dir").ino, 2)]
    for name in entries[::2]:
        volume.unlink(volume.resolve(b"/dir").ino, name)
    check_agrees(path, volume)
    volume.close()
    after = take(path, usage)
    assert (after["clean"], after["live"]) == (True, False)
    assert after["split_extents"] == after["page_descriptors"] == 0


def test_files_lie_where_it_says(path, volume):
    content = fill(volume, random.Random(2))
    with path.open("rb") as raw:
        for name, expected in content.items():
            data = take(path, file, name)
            assert data["remarks"] == []
            read = b""
            for piece in data["pieces"]:
                for run in piece["runs"]:
                    assert run["page"] * 4096 == len(read)
                    raw.seek(run["pfn"] * 4096)
                    read += raw.read(run["pages"] * 4096)
            assert read[: len(expected)] == expected


@pytest.mark.parametrize("name", [b"/large", b"/sparse", b"/far"])
def test_pages_lead_back_to_their_file(path, volume, name):
    fill(volume, random.Random(3))
    data = take(path, file, name)
    assert data["remarks"] == []
    assert data["mapped_pages"] == volume.resolve(name).pages
    for piece in data["pieces"]:
        whole = {"pfn": piece.get("extent", 0) * 512, "page": piece["piece"] * 512}
        for run in piece.get("runs", [whole]):
            found = take(path, page, run["pfn"])
            assert (found["ino"], found["index"]) == (data["ino"], run["page"])
            assert found["found_by"] == ("head" if run is whole else "page descriptor")


def test_directories_agree(path, volume):
    dice = random.Random(4)
    inodes = {}
    for number in range(3000):
        name = b"%d " % number + dice.randbytes(dice.randrange(200)).translate(None, b"/\0")
        inodes[name] = volume.create(ROOT, name, stat.S_IFIFO).ino
    data = take(path, file, b"/")
    assert data["remarks"] == []
    assert data["directory"]["entries"] == 3000
    for name in dice.sample(sorted(inodes), 200):
        assert take(path, file, b"/" + name)["ino"] == inodes[name]


def test_links_and_attributes(path, volume):
    volume.symlink(ROOT, b"short", b"target")
    volume.symlink(ROOT, b"long", b"t" * 3000)
    assert take(path, file, b"/short")["target"] == "target"
    assert take(path, file, b"/long")["target"] == "t" * 3000


def test_a_crash_leaves_no_descriptors(path):
    volume = Volume.open(path)
    fill(volume, random.Random(5))
    with_daemon = take(path, usage)
    volume.abandon()
    data = take(path, usage)
    assert with_daemon["split_extents"] > 0
    assert (data["live"], data["clean"], data["split_extents"]) == (False, False, 0)
    found = take(path, journal)
    assert data["journal_replayed"] is found["nothing_to_replay"]
    assert found["slots"][found["committed"] % 2]["is_committed"] is True


def test_a_read_only_mount_has_no_live_descriptors(path, volume):
    fill(volume, random.Random(6))
    volume.close()
    with Volume.open(path, Options(read_only=True)):
        data = take(path, usage)
    assert (data["live"], data["split_extents"]) == (False, 0)


def test_more_tables_than_the_reserve_holds(path):
    with Volume.open(path, Options(threshold_pages=512)) as volume:
        for number in range(75):
            inode = volume.create(ROOT, b"%d" % number, REG)
            volume.write(inode.ino, 0, b"x" * (511 * 4096))
        data = check_agrees(path, volume)
        assert data["split_extents"] == 75
        assert data["extents"]["descriptor"] == 2
        tables = [len(take(path, extent, row)["tables"]) for row in descriptor_extents(path)]
    assert tables == [64, 11]


def descriptor_extents(path):
    return [row["extent"] for row in take(path, extents, kind="descriptor")["extents"]]


def test_it_changes_nothing_and_keeps_up_with_a_busy_volume(path):
    volume = Volume.open(path)
    stop = threading.Event()

    def work():
        number = 0
        while not stop.is_set():
            name = b"%d" % (number % 50)
            if number >= 50:
                volume.unlink(ROOT, name)
            inode = volume.create(ROOT, name, REG)
            volume.write(inode.ino, 0, b"x" * 9000)
            number += 1
            stop.wait(0.0005)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        seen = [take(path, view) for _ in range(15) for view in (usage, free, extents, journal)]
    finally:
        stop.set()
        worker.join()
        volume.close()
    consistent = [data for data in seen if data["consistent"]]
    assert consistent
    assert all(data["remarks"] == [] for data in consistent)
    before = os.stat(path)
    take(path, usage)
    after = os.stat(path)
    assert (before.st_blocks, before.st_mtime_ns) == (after.st_blocks, after.st_mtime_ns)
