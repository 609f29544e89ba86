"""Sequences of operations on two files in two directories: all ordered pairs, and random ones.

Each operation is a step whose return makes its change durable, but for words overwritten in
place: those are durable when the file was synced. A sequence is recorded as a whole; of a pair
only the crashes since the first operation returned are enumerated, as the earlier ones are those
of the first operation alone. Names say all: ``pair:FIRST+SECOND`` and ``random:SEED.NUMBER``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from crash_calls import (
    PIECE,
    A,
    B,
    C,
    Run,
    allocate,
    copy,
    discard,
    do,
    fsync,
    hold,
    idle,
    ino,
    link,
    link_held,
    make,
    mkdir,
    pattern,
    preallocate,
    punch,
    release_held,
    release_idle,
    removexattr,
    rename,
    retire,
    rmdir,
    setattr_,
    setxattr,
    symlink,
    tmpfile,
    truncate,
    unlink,
    unsplit_all,
    write,
    zero,
)
from crash_case import SECOND, Case, Recording, load, prepared, tree_of
from crash_tree import PAGE, Allowed, Identity, Tree, require_modelled

from pmemfs.layout.records import Persist

FOO, BAR = b"/A/foo", b"/B/bar"
_MOST_STEPS = 8


@dataclass(frozen=True)
class Step:
    """One operation of a sequence.

    The data of the files at the paths ``syncs`` is durable when it returns. ``piecewise``: it may
    stop between any two of its transactions, as fallocate(2) may; all others are atomic.
    """

    name: str
    run: Run
    syncs: tuple[bytes, ...] = ()
    piecewise: bool = False


_setup = do(
    mkdir(b"/A"),
    mkdir(b"/B"),
    mkdir(b"/A/e"),
    mkdir(b"/B/e"),
    make(FOO, pattern(A, 2 * PAGE + 1000)),
    make(BAR, pattern(B, 600)),
    setxattr(FOO, b"user.x", b"1" * 40),
)
SETUP = Case("sequence", _setup, lambda volume: None, threshold_pages=6)

STEPS = [
    # names
    Step("create-new-A", make(b"/A/new")),
    Step("create-new-B", make(b"/B/new")),
    Step("create-foo", make(FOO)),
    Step("mkdir-A", mkdir(b"/A/d")),
    Step("mkdir-B", mkdir(b"/B/d")),
    Step("symlink-short", symlink(b"/A/s", b"t" * 20)),
    Step("symlink-long", symlink(b"/B/s", b"t" * 200)),
    Step("link-foo-B", link(FOO, b"/B/l")),
    Step("link-bar-A", link(BAR, b"/A/l")),
    Step("unlink-foo", unlink(FOO)),
    Step("unlink-bar", unlink(BAR)),
    Step("unlink-link", unlink(b"/B/l")),
    Step("rmdir-A", rmdir(b"/A/e")),
    Step("rmdir-B", rmdir(b"/B/e")),
    Step("rename-foo-A", rename(FOO, b"/A/r")),
    Step("rename-foo-B", rename(FOO, b"/B/r")),
    Step("rename-foo-over-bar", rename(FOO, BAR)),
    Step("rename-bar-over-foo", rename(BAR, FOO)),
    Step("rename-dir-over-dir", rename(b"/A/e", b"/B/e")),
    Step("rename-dir-B", rename(b"/A/e", b"/B/x")),
    Step("rename-B-into-A", rename(b"/B", b"/A/b")),
    Step("exchange-foo-bar", rename(FOO, BAR, 2)),
    Step("exchange-foo-dir", rename(FOO, b"/B/e", 2)),
    Step("exchange-A-B", rename(b"/A", b"/B", 2)),
    Step("hold-unlink-foo", do(hold(FOO), unlink(FOO))),
    Step("hold-rename-over-bar", do(hold(BAR), rename(FOO, BAR))),
    Step("release", release_held),
    Step("tmpfile", tmpfile(b"/A")),
    Step("tmpfile-link", do(tmpfile(b"/A"), link_held(b"/t"))),
    # data
    Step("overwrite-foo", write(FOO, 40, pattern(C, 24))),
    Step("overwrite-foo-pages", write(FOO, PAGE - 5, b"unaligned??")),
    Step("overwrite-bar", write(BAR, 56, pattern(C, 16))),
    Step("append-foo", write(FOO, 2 * PAGE + 1000, pattern(C, 100))),
    Step("append-foo-page", write(FOO, 2 * PAGE + 1000, pattern(C, PAGE))),
    Step("append-foo-far", write(FOO, 9 * PAGE + 7, b"far")),
    Step("append-bar", write(BAR, 600, pattern(C, 50))),
    Step("append-bar-piece", write(BAR, PIECE + 5, b"next piece")),
    Step("promote-foo", write(FOO, 3 * PAGE - 9, pattern(C, 4 * PAGE))),
    Step("promote-bar", write(BAR, 590, pattern(C, 5 * PAGE))),
    Step("truncate-foo-0", truncate(FOO, 0)),
    Step("truncate-foo-100", truncate(FOO, 100)),
    Step("truncate-foo-page", truncate(FOO, PAGE)),
    Step("truncate-foo-up", truncate(FOO, 5 * PAGE + 5)),
    Step("truncate-bar-0", truncate(BAR, 0)),
    Step("truncate-bar-300", truncate(BAR, 300)),
    Step("truncate-bar-up", truncate(BAR, 1000)),
    Step("punch-foo-in-page", punch(FOO, 100, 200)),
    Step("punch-foo-page", punch(FOO, PAGE, PAGE)),
    Step("punch-foo-unaligned", punch(FOO, 50, PAGE)),
    Step("punch-foo-all", punch(FOO, 0, 1 << 40)),
    Step("zero-foo", zero(FOO, 500, PAGE), piecewise=True),
    Step("allocate-foo", allocate(FOO, 2 * PAGE, 2 * PAGE), piecewise=True),
    Step("allocate-bar", allocate(BAR, 100, 2 * PAGE), piecewise=True),
    Step("preallocate-foo", preallocate(FOO, 2 * PAGE, 3 * PAGE), piecewise=True),
    Step("copy-foo-bar", copy(FOO, 10, BAR, 590, 40)),
    Step("copy-bar-foo", copy(BAR, 0, FOO, 2 * PAGE + 990, 500)),
    Step("fsync-foo", fsync(FOO), (FOO,)),
    Step("fsync-bar", fsync(BAR), (BAR,)),
    # attributes
    Step("setxattr-foo", setxattr(FOO, b"user.y", b"2" * 9)),
    Step("setxattr-foo-large", setxattr(FOO, b"user.x", b"3" * 2000)),
    Step("setxattr-A", setxattr(b"/A", b"user.a", b"4")),
    Step("removexattr-foo", removexattr(FOO, b"user.x")),
    Step("chmod-foo", setattr_(FOO, mode=0o6755)),
    Step("chown-foo", setattr_(FOO, uid=3, gid=4)),
    Step("chmod-bar", setattr_(BAR, mode=0o400)),
    Step("utimes-A", setattr_(b"/A", atime_ns=5, mtime_ns=6)),
    Step("append-only-bar", lambda v: v.set_inode_flags(ino(v, BAR), 0x20)),
    # background
    Step("unsplit", unsplit_all, (FOO, BAR)),
    Step("release-idle", release_idle),
    Step("discard", discard),
    Step("idle", idle),
]
BY_NAME = {step.name: step for step in STEPS}
assert len(BY_NAME) == len(STEPS)


def pair_names(first: str) -> list[str]:
    """Return the names of all pairs that begin with a step."""
    return [f"pair:{first}+{second.name}" for second in STEPS]


def record_sequence(name: str, persist: Persist = Persist.CACHE) -> Recording | None:
    """Record the sequence of that name; None where a step of a pair is not possible."""
    kind, _, rest = name.partition(":")
    if kind == "pair":
        first, _, second = rest.partition("+")
        return _record([BY_NAME[first], BY_NAME[second]], persist, only_last=True)
    return _record(list(random_steps(random.Random(rest))), persist, only_last=False)


def _record(steps: list[Step], persist: Persist, *, only_last: bool) -> Recording | None:
    case = replace(SETUP, persist=persist)
    with prepared(case) as (fd, volume, clock):
        base = load(fd)
        trees, returned = [tree_of(base, SETUP)], [0]
        synced: dict[Identity, list[int]] = {}
        device = volume.device
        device.start()
        for step in steps:
            clock.now += SECOND
            since = len(device.events) if only_last else 0
            between: list[Tree] = []
            if step.piecewise:
                device.on_commit = lambda: between.append(tree_of(load(fd), SETUP))  # noqa: B023
            try:
                step.run(volume)
            except OSError:
                if only_last:
                    return None
                assert tree_of(load(fd), SETUP) == trees[-1], f"{step.name} failed and changed"
                continue
            finally:
                device.on_commit = None
            tree = tree_of(load(fd), SETUP)
            require_modelled(volume, tree, SETUP.skip)
            trees += [*between, tree]
            returned += [len(device.events)] * (len(between) + 1)
            for path in step.syncs:
                if path in tree:
                    synced.setdefault(tree[path].identity, []).append(len(trees) - 1)
        events = device.stop()
    allowed = Allowed(trees, returned, durable=False, synced=synced)
    return Recording(case, base, events, allowed, since=since)


def random_steps(rng: random.Random) -> Iterator[Step]:
    """Yield steps of a longer sequence: known ones, and writes and cuts at random places."""
    for _ in range(rng.randint(3, _MOST_STEPS)):
        yield rng.choice(STEPS) if rng.random() < 0.6 else _random_data_step(rng)


def _random_data_step(rng: random.Random) -> Step:
    path = rng.choice([FOO, BAR, b"/A/new", b"/B/l", b"/A/r"])
    offset = rng.choice([0, PAGE, 2 * PAGE, 5 * PAGE, PIECE]) + rng.choice([0, 1, 60, 777, 4090])
    length = rng.choice([1, 8, 24, 100, PAGE, PAGE + 9, 3 * PAGE])
    what = rng.randrange(9)
    if what < 3:
        return Step("write", write(path, offset, pattern(rng.choice([A, B, C]), length)))
    if what == 3:
        return Step("truncate", truncate(path, offset))
    if what == 4:
        return Step("punch", punch(path, offset, length))
    if what == 5:
        return Step("allocate", allocate(path, offset, length), piecewise=True)
    if what == 6:
        return Step("make", make(path))
    if what == 7:
        return Step("retire", retire)
    return Step("fsync", fsync(path), (path,))
