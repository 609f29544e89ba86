"""Directories: cost that does not grow with them, listings that hold still, equal hashes."""

from __future__ import annotations

import errno
import random

import pytest
from volumes import REGULAR, VolumeBed, idle, remove_tree, validate_empty, validate_volume

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume, leaf
from pmemfs.fs.directories import Directories
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.records import Kind
from pmemfs.layout.words import NODE
from pmemfs.units import MIB


def names_of(volume: Volume, ino: int, after: int = 0) -> list[bytes]:
    return [entry.name for entry in volume.readdir(ino, after) if entry.cookie > 2]


def fill(volume: Volume, count: int, length: int = 3) -> list[bytes]:
    names = [b"%d" % number + b"x" * length for number in range(count)]
    for name in names:
        volume.create(ROOT_INO, name, REGULAR)
    return names


class CountedWords:
    """The words of a device; counts how many a look-up reads."""

    def __init__(self, words: memoryview) -> None:
        self.words = words
        self.reads = 0

    def __getitem__(self, index: int) -> int:
        self.reads += 1
        return self.words[index]


class CountedDevice:
    """Stands in for the device of `Directories`: counts words read and leaves searched."""

    def __init__(self, volume: Volume) -> None:
        self.words = CountedWords(volume.device.words)
        self.view = volume.device.view
        self.searches = 0
        self._find = volume.device.find

    def find(self, *arguments) -> int:
        self.searches += 1
        return self._find(*arguments)


def look_up_cost(volume: Volume, name: bytes) -> tuple[int, int]:
    """Return how many words of nodes and how many leaves finding a name reads."""
    device = CountedDevice(volume)
    real = volume._directories._device
    volume._directories._device = device
    try:
        assert volume._directories.find(volume.inode(ROOT_INO), name) is not None
    finally:
        volume._directories._device = real
    return device.words.reads, device.searches


# -- a large one ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "many", [20_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_a_large_directory(bed: VolumeBed, many: int) -> None:
    """No operation on it costs more than on a small one, also after a remount."""
    volume = bed.make(256 * MIB)
    names = []
    costs = {}
    for number in range(many):
        name = b"file number %d" % number
        before = volume.device.counters.stores
        volume.create(ROOT_INO, name, REGULAR)
        names.append(name)
        if number % 1000 < 200:
            costs.setdefault(number // 1000, []).append(volume.device.counters.stores - before)
    median = {block: sorted(each)[100] for block, each in costs.items()}
    # stores grow only with the leaf's split; most creates store the same few records
    assert median[many // 1000 - 1] <= median[1] + 2
    assert max(max(each) for each in costs.values()) <= 60
    assert volume.inode(ROOT_INO).entries == many
    _check_look_ups(volume, names)
    volume = bed.reopen(volume)
    _check_look_ups(volume, names)
    assert sorted(names_of(volume, ROOT_INO)) == sorted(names)
    random.Random(1).shuffle(names)
    worst = 0
    for name in names:
        before = volume.device.counters.stores
        volume.unlink(ROOT_INO, name)
        worst = max(worst, volume.device.counters.stores - before)
    assert worst <= 60
    idle(volume)
    validate_empty(volume)


def _check_look_ups(volume: Volume, names: list[bytes]) -> None:
    for name in names[:: len(names) // 500]:
        words, searches = look_up_cost(volume, name)
        assert words <= 3, "one for each 9 bits of hash in use"
        assert searches <= 3, "one leaf; more where the hash's bytes come up by chance"
    before = volume.device.counters.copy()
    volume.lookup(ROOT_INO, names[-1])
    assert volume.device.counters.since(before).stores == 0


def test_a_listing_reads_each_leaf_once(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(volume, 3000)
    reads = 0
    real = leaf.read_entries

    def counted(page):
        nonlocal reads
        reads += 1
        return real(page)

    monkeypatch.setattr("pmemfs.fs.leaf.read_entries", counted)
    assert len(names_of(volume, ROOT_INO)) == 3000
    extents = range(volume.geometry.n_extents)
    metadata = [extent for extent in extents if volume.pool.kind(extent) == Kind.METADATA]
    assert reads <= sum(volume.pool.used(extent) for extent in metadata)


# -- listings ------------------------------------------------------------------------------------


def test_a_listing_goes_on_from_any_cookie(volume: Volume) -> None:
    fill(volume, 500)
    entries = list(volume.readdir(ROOT_INO))
    assert [entry.cookie for entry in entries[:2]] == [1, 2]
    cookies = [entry.cookie for entry in entries]
    assert cookies == sorted(set(cookies))
    assert all(0 < cookie < 1 << 63 for cookie in cookies)
    for place in range(0, len(entries), 7):
        assert list(volume.readdir(ROOT_INO, cookies[place])) == entries[place + 1 :]


def test_cookies_are_the_same_after_a_remount(bed: VolumeBed, volume: Volume) -> None:
    fill(volume, 500)
    entries = list(volume.readdir(ROOT_INO))
    volume = bed.reopen(volume)
    assert list(volume.readdir(ROOT_INO)) == entries


@pytest.mark.parametrize("seed", range(4))
def test_what_stays_is_listed_exactly_once(volume: Volume, seed: int) -> None:
    """Others come and go between the parts of a listing, by the hundred."""
    rng = random.Random(seed)
    steady = [b"steady %d" % number for number in range(300)]
    for name in steady:
        volume.create(ROOT_INO, name, REGULAR)
    others: set[bytes] = set()
    seen: list[bytes] = []
    cookie = 0
    while True:
        part = []
        for entry in volume.readdir(ROOT_INO, cookie):
            part.append(entry)
            if len(part) == 20:
                break
        if not part:
            break
        cookie = part[-1].cookie
        seen += [entry.name for entry in part]
        for _ in range(rng.randrange(120)):
            if others and rng.random() < 0.5:
                name = others.pop()
                volume.unlink(ROOT_INO, name)
            else:
                name = b"other %d" % rng.randrange(10**9) + b"y" * rng.randrange(200)
                volume.create(ROOT_INO, name, REGULAR)
                others.add(name)
    assert len(seen) == len(set(seen))
    assert set(steady) <= set(seen)


def test_an_open_listing_survives_an_emptied_directory(volume: Volume) -> None:
    names = fill(volume, 400)
    listing = volume.readdir(ROOT_INO)
    for _ in range(50):
        next(listing)
    for name in names:
        volume.unlink(ROOT_INO, name)
    rest = list(listing)
    assert len(rest) < 200  # at most what was left of the leaf it had read
    assert names_of(volume, ROOT_INO) == []


def test_renaming_over_an_entry_keeps_its_place(volume: Volume) -> None:
    fill(volume, 300)
    before = {entry.name: entry.cookie for entry in volume.readdir(ROOT_INO)}
    volume.rename(ROOT_INO, b"7xxx", ROOT_INO, b"8xxx")
    after = {entry.name: entry.cookie for entry in volume.readdir(ROOT_INO)}
    del before[b"7xxx"]
    assert after == before


# -- growing and shrinking -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 100, 240])
@pytest.mark.parametrize("order", ["same", "reversed", "random"])
def test_an_empty_directory_has_no_pages(volume: Volume, length: int, order: str) -> None:
    names = fill(volume, 600, length)
    assert volume.inode(ROOT_INO).words[0] & NODE
    if order == "reversed":
        names.reverse()
    elif order == "random":
        random.Random(3).shuffle(names)
    for place, name in enumerate(names):
        volume.unlink(ROOT_INO, name)
        if place % 100 == 0:
            assert sorted(names_of(volume, ROOT_INO)) == sorted(names[place + 1 :])
    idle(volume)
    validate_empty(volume)


def test_a_leaf_is_packed_before_it_is_split(volume: Volume) -> None:
    """Names that come and go in a small directory never make it larger."""
    for number in range(1000):
        volume.create(ROOT_INO, b"%d" % number + b"z" * 200, REGULAR)
        if number >= 8:
            volume.unlink(ROOT_INO, b"%d" % (number - 8) + b"z" * 200)
    assert not volume.inode(ROOT_INO).words[0] & NODE


# -- equal hashes --------------------------------------------------------------------------------


@pytest.fixture
def collide(monkeypatch: pytest.MonkeyPatch):
    """Make the hash of a name what a function of it says, for the engine and for fsck.

    Ask for it before the volume, so that it lasts until fsck has run.
    """

    def collide(function) -> None:
        monkeypatch.setattr(Directories, "hash", lambda self, name: function(name))
        monkeypatch.setattr("pmemfs.fsck.leaves.name_hash", lambda name, seed: function(name))

    return collide


def constant(name: bytes) -> int:
    return 0x1234_5678_9ABC_DE00


def few(name: bytes) -> int:
    """Eight values that differ in the first, a middle and the last hash bit only."""
    kind = name[0] % 8
    return 1 << 61 | (kind & 1) << 62 | (kind >> 1 & 1) << 40 | (kind >> 2) << 8


def test_names_of_equal_hash(collide, volume: Volume) -> None:
    collide(constant)
    names = [b"%03d" % number for number in range(150)]
    inos = {name: volume.create(ROOT_INO, name, REGULAR).ino for name in names}
    assert {name: volume.lookup(ROOT_INO, name).ino for name in names} == inos
    entries = list(volume.readdir(ROOT_INO))[2:]
    assert len({entry.cookie for entry in entries}) == 150
    for place in range(0, 150, 11):
        assert list(volume.readdir(ROOT_INO, entries[place].cookie)) == entries[place + 1 :]
    for name in names[::2]:
        volume.unlink(ROOT_INO, name)
    assert sorted(names_of(volume, ROOT_INO)) == names[1::2]
    with pytest.raises(PmemfsError) as caught:
        volume.lookup(ROOT_INO, names[0])
    assert caught.value.errno == errno.ENOENT
    for name in names[::2]:
        volume.create(ROOT_INO, name, REGULAR)
    assert sorted(names_of(volume, ROOT_INO)) == names
    validate_volume(volume)


def test_more_equal_names_than_a_leaf_holds(collide, volume: Volume) -> None:
    """ENOSPC says that this directory cannot, and nothing is damaged."""
    collide(constant)
    made = 0
    with pytest.raises(PmemfsError, match="names of one hash") as caught:  # noqa: PT012
        for number in range(300):
            volume.create(ROOT_INO, b"%03d" % number + b"x" * 100, REGULAR)
            made += 1
    assert caught.value.errno == errno.ENOSPC
    assert 20 < made < 256
    assert len(names_of(volume, ROOT_INO)) == made
    validate_volume(volume)
    remove_tree(volume)
    idle(volume)
    validate_empty(volume)


def test_hashes_that_differ_late_make_a_deep_trie(collide, volume: Volume) -> None:
    collide(few)
    names = [bytes([65 + number % 4]) + b"%03d" % number * 30 for number in range(60)]
    for name in names:
        volume.create(ROOT_INO, name, REGULAR)
    assert sorted(names_of(volume, ROOT_INO)) == sorted(names)
    assert all(volume.lookup(ROOT_INO, name).is_file for name in names)
    validate_volume(volume)
    random.Random(5).shuffle(names)
    for name in names:
        volume.unlink(ROOT_INO, name)
    idle(volume)
    validate_empty(volume)


def test_the_hash_is_keyed_by_the_image(bed: VolumeBed) -> None:
    """Names that collide in one image do not in another."""
    one, other = bed.make(), bed.make()
    assert one._directories.hash(b"name") != other._directories.hash(b"name")
    assert one._directories.hash(b"name") & 0xFF == 0
