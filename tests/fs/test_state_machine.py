"""The Volume against a dict model, call by call: hypothesis looks for the shortest difference.

After every step the invariants of the design are held against memory and device, now and then
fsck checks the live image. At the end of each run all content is compared, the image is closed
and checked, opened again, everything is deleted, and every extent must be free again.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model as m
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from model import Node
from volumes import (
    SMALLEST_BYTES,
    HostDevice,
    ManualClock,
    findings_of,
    idle,
    remove_tree,
    validate_empty,
    validate_volume,
)

from pmemfs.errors import PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import EXTENT_BYTES, MAX_FILE_BYTES, PAGE_BYTES
from pmemfs.layout.records import Kind

KEEP_SIZE, PUNCH, ZERO = 1, 3, 16
FSCK_EVERY = 8
IMAGES = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

numbers = st.integers(0, 1 << 16)
good_names = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"d", b"\xff\xfe", b" \n", b"n" * 255, b"..."]),
    st.binary(min_size=1, max_size=255).filter(lambda n: not set(n) & {0, 47}),
)
bad_names = st.sampled_from([b"", b".", b"..", b"x" * 256, b"a/b", b"nul\0"])
names = st.one_of(good_names, good_names, good_names, good_names, good_names, bad_names)
offsets = st.one_of(
    st.integers(0, 3 * PAGE_BYTES),
    st.integers(0, 24).map(lambda n: n * PAGE_BYTES),
    st.integers(0, 1600).map(lambda n: n * PAGE_BYTES),
    st.integers(0, 4 * EXTENT_BYTES),
    st.sampled_from([1 << 30, 17 << 21, (17 << 30) - 5000, 1 << 40, MAX_FILE_BYTES - 70_000]),
    st.integers(0, MAX_FILE_BYTES + PAGE_BYTES),
)
lengths = st.one_of(
    st.integers(1, 200),
    st.integers(1, 20 * PAGE_BYTES),
    st.integers(1, 20).map(lambda n: n * PAGE_BYTES),
    st.integers(1, 5 * EXTENT_BYTES // 2),
)
xattr_names = st.sampled_from([b"user.a", b"user.b", b"trusted.c", b"user." + b"x" * 250])


class VolumeMachine(RuleBasedStateMachine):
    """Rules pick nodes by number, modulo how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="pmemfs-machine-", dir=IMAGES)
        self.path = Path(self.directory.name) / "disk.img"
        Volume.format(self.path, SMALLEST_BYTES)
        self.clock = ManualClock()
        self.steps = 0
        self.root = Node(stat.S_IFDIR | 0o755, os.geteuid(), os.getegid())
        self.root.ino = ROOT_INO
        self.nodes = [self.root]
        self.listing: Listing | None = None
        HostDevice.full = False

    @initialize(threshold=st.sampled_from([1, 8, 64, 256, 512]))
    def begin(self, threshold: int) -> None:
        self.options = Options(threshold_pages=threshold, clock=self.clock)
        self.open()
        self.free_pages = self.volume.pool.free_pages

    def open(self) -> None:
        self.volume = Volume.open(self.path, self.options, device_class=HostDevice)

    # -- picking and doing -------------------------------------------------------------------

    def any_node(self, number: int) -> Node:
        return self.nodes[number % len(self.nodes)]

    def any_dir(self, number: int) -> Node:
        """A directory, but for one number in sixteen."""
        if number % 16 == 15:
            return self.any_node(number // 16)
        dirs = [node for node in self.nodes if node.is_dir]
        return dirs[number // 16 % len(dirs)]

    def any_file(self, number: int) -> Node:
        if number % 32 == 31:
            return self.any_node(number // 32)
        files = [node for node in self.nodes if node.is_file]
        return files[number // 32 % len(files)] if files else self.root

    def any_name(self, parent: Node, number: int, name: bytes) -> bytes:
        """A name that is there, two times in three."""
        there = list(parent.entries)
        return there[number // 3 % len(there)] if there and number % 3 else name

    def attempt(
        self, errors: set[int], call: Callable[..., Any], *args: Any, grows: bool = False, **kw: Any
    ) -> tuple[bool, Any]:
        """Call; the outcome must be as the model says. ``grows``: ENOSPC when space is out."""
        try:
            result = call(*args, **kw)
        except OSError as error:
            if error.errno == errno.ENOSPC and grows:
                assert HostDevice.full or not self.volume.pool.free_extents
                return False, None
            assert error.errno in errors, (error, errors)  # noqa: PT017
            return False, None
        assert not errors, errors
        return True, result

    def forget_gone(self) -> None:
        self.nodes = [node for node in self.nodes if node.nlink or node.holds]

    def fill(self, length: int) -> bytes:
        """Content that no other write has."""
        word = b"%07d " % self.steps
        return (word * (length // 8 + 1))[:length]

    # -- names -------------------------------------------------------------------------------

    def _made(self, parent: Node, name: bytes, node: Node, inode: Any) -> None:
        node.ino = inode.ino
        m.inherit(parent, node)
        m.add_entry(parent, name, node)
        self.nodes.append(node)

    @rule(d=numbers, name=names, kind=st.sampled_from([stat.S_IFREG] * 6 + [stat.S_IFIFO]))
    def create(self, d: int, name: bytes, kind: int) -> None:
        parent = self.any_dir(d)
        node = Node(kind | 0o640, 3, 4)
        errors = m.make_errors(parent, name)
        call = self.volume.create
        ok, inode = self.attempt(errors, call, parent.ino, name, node.mode, 3, 4, grows=True)
        if ok:
            self._made(parent, name, node, inode)

    @rule(d=numbers, name=names)
    def mkdir(self, d: int, name: bytes) -> None:
        parent = self.any_dir(d)
        errors = m.make_errors(parent, name)
        ok, inode = self.attempt(errors, self.volume.mkdir, parent.ino, name, 0o700, grows=True)
        if ok:
            self._made(parent, name, Node(stat.S_IFDIR | 0o700), inode)

    @rule(d=numbers, name=names, length=st.sampled_from([1, 8, 136, 137, 4095]))
    def symlink(self, d: int, name: bytes, length: int) -> None:
        parent = self.any_dir(d)
        errors = m.make_errors(parent, name)
        target = self.fill(length)
        ok, inode = self.attempt(errors, self.volume.symlink, parent.ino, name, target, grows=True)
        if ok:
            node = Node(stat.S_IFLNK | 0o777)
            node.target, node.size = target, length
            self._made(parent, name, node, inode)

    @rule(d=numbers, count=st.integers(10, 60), length=st.sampled_from([3, 60, 250]))
    def create_many(self, d: int, count: int, length: int) -> None:
        parent = self.any_dir(d)
        for number in range(count):
            name = (b"%d.%d." % (self.steps, number) + b"m" * length)[:255]
            errors = m.make_errors(parent, name)
            call = self.volume.create
            ok, inode = self.attempt(
                errors, call, parent.ino, name, stat.S_IFREG | 0o600, grows=True
            )
            if not ok:
                break
            self._made(parent, name, Node(stat.S_IFREG | 0o600), inode)

    @rule(d=numbers, keep=st.integers(0, 5))
    def unlink_many(self, d: int, keep: int) -> None:
        parent = self.any_dir(d)
        for name in list(parent.entries)[keep:]:
            if not parent.entries[name].is_dir:
                self.volume.unlink(parent.ino, name)
                m.drop_link(m.remove_entry(parent, name))
                self._entry_left(parent, name)
        self.forget_gone()

    @rule(d=numbers, mode=st.sampled_from([0o600, 0o666]))
    def tmpfile(self, d: int, mode: int) -> None:
        parent = self.any_dir(d)
        errors = set() if parent.is_dir else {errno.ENOTDIR}
        ok, inode = self.attempt(errors, self.volume.tmpfile, parent.ino, mode, grows=True)
        if ok:
            node = Node(stat.S_IFREG | mode)
            node.nlink, node.holds, node.ino = 0, 1, inode.ino
            m.inherit(parent, node)
            self.nodes.append(node)

    @rule(n=numbers, d=numbers, name=names)
    def link(self, n: int, d: int, name: bytes) -> None:
        node, parent = self.any_node(n), self.any_dir(d)
        errors = m.link_errors(node, parent, name)
        ok, _ = self.attempt(errors, self.volume.link, node.ino, parent.ino, name, grows=True)
        if ok:
            node.nlink += 1
            m.add_entry(parent, name, node)

    @rule(d=numbers, which=numbers, name=names)
    def unlink(self, d: int, which: int, name: bytes) -> None:
        parent = self.any_dir(d)
        name = self.any_name(parent, which, name)
        ok, _ = self.attempt(m.unlink_errors(parent, name), self.volume.unlink, parent.ino, name)
        if ok:
            m.drop_link(m.remove_entry(parent, name))
            self._entry_left(parent, name)
            self.forget_gone()

    @rule(d=numbers, which=numbers, name=names.filter(lambda n: n not in (b".", b"..")))
    def rmdir(self, d: int, which: int, name: bytes) -> None:
        parent = self.any_dir(d)
        name = self.any_name(parent, which, name)
        ok, _ = self.attempt(m.rmdir_errors(parent, name), self.volume.rmdir, parent.ino, name)
        if ok:
            m.drop_link(m.remove_entry(parent, name))
            self._entry_left(parent, name)
            self.forget_gone()

    @rule(
        d=numbers, which=numbers, name=names,
        d2=numbers, which2=numbers, name2=names,
        flags=st.sampled_from([0, 0, 0, 1, 2, 2, 3, 4]),
    )  # fmt: skip
    def rename(
        self, d: int, which: int, name: bytes, d2: int, which2: int, name2: bytes, flags: int
    ) -> None:
        old, new = self.any_dir(d), self.any_dir(d2)
        name = self.any_name(old, which, name)
        name2 = self.any_name(new, which2, name2)
        errors = m.rename_errors(old, name, new, name2, flags)
        call = self.volume.rename
        ok, _ = self.attempt(errors, call, old.ino, name, new.ino, name2, flags, grows=True)
        if ok:
            m.rename(old, name, new, name2, flags)
            if name not in old.entries:
                self._entry_left(old, name)
            self.forget_gone()

    @rule(d=numbers, which=numbers, name=names)
    def lookup(self, d: int, which: int, name: bytes) -> None:
        parent = self.any_dir(d)
        name = self.any_name(parent, which, name)
        if name in (b".", b".."):
            return
        ok, inode = self.attempt(m.find_errors(parent, name), self.volume.lookup, parent.ino, name)
        if ok:
            assert inode.ino == parent.entries[name].ino

    # -- attributes --------------------------------------------------------------------------

    @rule(n=numbers, mode=st.integers(0, 0o7777), uid=st.sampled_from([None, 0, 7, 2**32 - 2]))
    def set_attributes(self, n: int, mode: int, uid: int | None) -> None:
        node = self.any_node(n)
        self.volume.setattr(node.ino, mode=mode, mtime_ns=mode << 40)
        node.mode = stat.S_IFMT(node.mode) | mode
        if uid is not None:
            self.volume.setattr(node.ino, uid=uid)
            node.uid = uid
            if not node.is_dir:
                node.mode &= ~stat.S_ISUID
                node.mode &= ~stat.S_ISGID if node.mode & stat.S_IXGRP else ~0
        inode = self.volume.inode(node.ino)
        assert (inode.mode, inode.mtime_ns) == (node.mode, mode << 40)

    @rule(
        n=numbers, name=xattr_names, length=st.integers(0, 1500), flags=st.sampled_from([0, 1, 2])
    )
    def setxattr(self, n: int, name: bytes, length: int, flags: int) -> None:
        node, value = self.any_node(n), self.fill(length)
        after = node.xattrs | {name: value}
        errors = set()
        if flags == 1 and name in node.xattrs:
            errors = {errno.EEXIST}
        elif flags == 2 and name not in node.xattrs:
            errors = {errno.ENODATA}
        elif m.xattr_bytes(after) > m.XATTR_ROOM:
            errors = {errno.ENOSPC}
        grows = not errors
        ok, _ = self.attempt(
            errors, self.volume.setxattr, node.ino, name, value, flags, grows=grows
        )
        if ok:
            node.xattrs = after

    @rule(n=numbers, name=xattr_names)
    def removexattr(self, n: int, name: bytes) -> None:
        node = self.any_node(n)
        errors = set() if name in node.xattrs else {errno.ENODATA}
        grows = len(node.xattrs) > 1
        ok, _ = self.attempt(errors, self.volume.removexattr, node.ino, name, grows=grows)
        if ok:
            del node.xattrs[name]

    # -- data --------------------------------------------------------------------------------

    @rule(f=numbers, offset=offsets, length=lengths)
    def write(self, f: int, offset: int, length: int) -> None:
        node = self.any_file(f)
        errors = m.size_errors(node, 0)
        if not errors and offset >= MAX_FILE_BYTES:
            errors = {errno.EFBIG}
        data = self.fill(length)
        ok, n = self.attempt(errors, self.volume.write, node.ino, offset, data, grows=True)
        if ok:
            assert n == length or offset + n == MAX_FILE_BYTES or 0 < n < length
            node.write(offset, data[:n])
            self.compare(node, offset - PAGE_BYTES, n + 2 * PAGE_BYTES)

    @rule(f=numbers, g=numbers, offset=offsets, count=st.integers(5, 60), stride=st.integers(1, 3))
    def write_fragments(self, f: int, g: int, offset: int, count: int, stride: int) -> None:
        """Pages of two files in turn, so that neither is contiguous on the device."""
        data = self.fill(3000)
        for number in range(count):
            for node in (self.any_file(f), self.any_file(g)):
                at = offset + number * stride * PAGE_BYTES
                if not node.is_file or at + len(data) > MAX_FILE_BYTES:
                    return
                ok, n = self.attempt(set(), self.volume.write, node.ino, at, data, grows=True)
                if not ok:
                    return
                node.write(at, data[:n])

    @rule(f=numbers, offset=offsets, length=lengths)
    def read(self, f: int, offset: int, length: int) -> None:
        node = self.any_file(f)
        errors = m.size_errors(node, 0)
        ok, pieces = self.attempt(errors, self.volume.read, node.ino, offset, length)
        if ok:
            assert b"".join(pieces) == node.read(offset, length)

    @rule(f=numbers, size=offsets)
    def truncate(self, f: int, size: int) -> None:
        node = self.any_file(f)
        ok, _ = self.attempt(m.size_errors(node, size), self.volume.setattr, node.ino, size=size)
        if ok:
            node.truncate(size)
            self.compare(node, size - PAGE_BYTES, PAGE_BYTES)

    @rule(f=numbers, offset=offsets, length=st.one_of(lengths, st.just(MAX_FILE_BYTES)))
    def punch(self, f: int, offset: int, length: int) -> None:
        node = self.any_file(f)
        errors = m.size_errors(node, offset + length)
        ok, _ = self.attempt(errors, self.volume.fallocate, node.ino, PUNCH, offset, length)
        if ok:
            node.zero(offset, offset + length)
            self.compare(node, offset - PAGE_BYTES, min(length, EXTENT_BYTES) + 2 * PAGE_BYTES)

    @rule(
        f=numbers, offset=offsets, length=lengths, mode=st.sampled_from([0, KEEP_SIZE, ZERO, 17, 8])
    )  # fmt: skip
    def fallocate(self, f: int, offset: int, length: int, mode: int) -> None:
        node = self.any_file(f)
        errors = m.size_errors(node, offset + length)
        if not errors and mode == 8:  # FALLOC_FL_COLLAPSE_RANGE
            errors = {errno.EOPNOTSUPP}
        call = self.volume.fallocate
        ok, _ = self.attempt(errors, call, node.ino, mode, offset, length, grows=True)
        if mode & ZERO and (ok or not errors):  # zeroed before it is allocated
            node.zero(offset, offset + length)
        if ok and not mode & KEEP_SIZE:
            node.size = max(node.size, offset + length)
        if node.is_file:
            assert self.volume.inode(node.ino).size == node.size
            self.compare(node, offset - PAGE_BYTES, length + 2 * PAGE_BYTES)

    @rule(f=numbers, g=numbers, offset=offsets, to=offsets, length=lengths)
    def copy_range(self, f: int, g: int, offset: int, to: int, length: int) -> None:
        source, target = self.any_file(f), self.any_file(g)
        if source is target or to >= MAX_FILE_BYTES:
            return
        errors = m.size_errors(source, 0) or m.size_errors(target, 0)
        data = source.read(offset, length)
        if errors and source.is_file and not data:
            return
        call = self.volume.copy_range
        ok, n = self.attempt(errors, call, source.ino, offset, target.ino, to, length, grows=True)
        if ok:
            assert n == len(data) or 0 < n < len(data)
            target.write(to, data[:n])
        if target.is_file:
            self.compare(target, to - PAGE_BYTES, length + 2 * PAGE_BYTES)

    @rule(f=numbers)
    def fsync(self, f: int) -> None:
        self.volume.fsync(self.any_file(f).ino)

    @rule(f=numbers, chunk=st.sampled_from([EXTENT_BYTES, 64 * PAGE_BYTES]))
    def fill_device(self, f: int, chunk: int) -> None:
        node = self.any_file(f)
        data = self.fill(chunk)
        offset = -(-node.size // PAGE_BYTES) * PAGE_BYTES
        while node.is_file and offset + chunk <= MAX_FILE_BYTES:
            ok, n = self.attempt(set(), self.volume.write, node.ino, offset, data, grows=True)
            if not ok:
                break
            node.write(offset, data[:n])
            offset += n
            if n < chunk:
                break

    # -- holding, idle work, opening again ---------------------------------------------------

    @rule(n=numbers)
    def hold(self, n: int) -> None:
        node = self.any_node(n)
        self.volume.hold(node.ino)
        node.holds += 1

    @rule(n=numbers)
    def release(self, n: int) -> None:
        held = [node for node in self.nodes if node.holds]
        if held:
            node = held[n % len(held)]
            self.volume.release(node.ino)
            node.holds -= 1
            self.forget_gone()

    @rule(seconds=st.sampled_from([0.001, 1.0, 31.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(what=st.sampled_from(["orphan", "unsplit", "release", "discard", "all"]))
    def idle_step(self, what: str) -> None:
        volume = self.volume
        assert volume.tables is not None
        if what == "orphan" and (orphan := volume.orphans.workable()) is not None:
            volume.orphans.work(orphan)
        elif what == "unsplit" and (coldest := volume.tables.coldest()) is not None:
            volume.tables.unsplit(coldest[0])
        elif what == "release":
            volume.release_idle()
        elif what == "discard":
            volume.pool.discard_returned(3)
        elif what == "all":
            idle(volume)

    @rule(n=numbers, f=numbers, what=st.sampled_from(["move out", "demote", "promote", "settle"]))
    def move(self, n: int, f: int, what: str) -> None:
        """What the reclaimer may do between any two requests; nothing of it is seen."""
        volume, node = self.volume, self.any_file(f)
        assert volume.moves is not None
        small = np.flatnonzero(volume.pool.open_column(Kind.SMALL)).tolist()
        if what == "move out" and small:
            volume.moves.move_out(small[n % len(small)], 1 + n % 70)
        elif what == "demote":
            volume.moves.demote(node.ino)
        elif what == "promote":
            volume.moves.promote(node.ino, n % 4)
        elif what == "settle":
            volume.data_arenas.retire()
            volume.moves.holes.retire()

    @rule(is_full=st.booleans())
    def host_space(self, is_full: bool) -> None:
        HostDevice.full = is_full

    @rule(how=st.sampled_from(["clean", "crash", "read-only"]))
    def reopen(self, how: str) -> None:
        """A killed daemon loses nothing that was stored, but what only it kept alive."""
        if how == "clean":
            self.volume.close()
            assert findings_of(self.path) == []
        else:
            self.volume.abandon()
        for node in self.nodes:
            node.holds = 0
        self.forget_gone()
        if how == "read-only":
            before = self.path.stat().st_mtime_ns
            with Volume.open(self.path, Options(read_only=True)) as self.volume:
                self.compare_all()
            assert self.path.stat().st_mtime_ns == before
        self.open()
        assert self.volume.was_clean == (how == "clean")

    # -- listing -----------------------------------------------------------------------------

    @rule(d=numbers)
    def start_listing(self, d: int) -> None:
        self.listing = Listing(self.any_dir(d))
        if not self.listing.directory.is_dir:
            self.listing = None

    @rule(count=st.integers(1, 40))
    def go_on_listing(self, count: int) -> None:
        listing = self.listing
        if listing is None:
            return
        if listing.directory not in self.nodes:
            self.listing = None
            return
        for entry in self.volume.readdir(listing.directory.ino, listing.cookie):
            assert entry.cookie > listing.cookie
            listing.cookie = entry.cookie
            listing.seen.append(entry.name)
            count -= 1
            if not count:
                return
        assert len(listing.seen) == len(set(listing.seen))
        assert listing.steady <= set(listing.seen)
        self.listing = None

    def _entry_left(self, directory: Node, name: bytes) -> None:
        if self.listing is not None and self.listing.directory is directory:
            self.listing.steady.discard(name)

    # -- comparing ---------------------------------------------------------------------------

    def compare(self, node: Node, offset: int, length: int) -> None:
        offset = max(offset, 0)
        data = b"".join(self.volume.read(node.ino, offset, length))
        assert data == node.read(offset, length), (node.ino, offset, length)

    def compare_all(self) -> None:
        assert {id(node) for node in m.walk(self.root)} <= {id(node) for node in self.nodes}
        for node in self.nodes:
            self.compare_node(node)

    def compare_node(self, node: Node) -> None:
        inode = self.volume.inode(node.ino)
        assert (inode.mode, inode.nlink, inode.uid, inode.gid) == (
            node.mode, node.nlink, node.uid, node.gid,
        )  # fmt: skip
        assert inode.size == node.size
        listed = {
            name: self.volume.getxattr(node.ino, name) for name in self.volume.listxattr(node.ino)
        }
        assert listed == node.xattrs
        if node.is_dir:
            self.compare_directory(node)
        elif stat.S_ISLNK(node.mode):
            assert self.volume.readlink(node.ino) == node.target
        elif node.is_file:
            self.compare_data(node)

    def compare_directory(self, node: Node) -> None:
        entries = list(self.volume.readdir(node.ino))
        assert [e.name for e in entries[:2]] == [b".", b".."]
        listed = {e.name: (e.ino, e.type) for e in entries[2:]}
        assert len(listed) == len(entries) - 2
        assert listed == {n: (c.ino, c.mode >> 12) for n, c in node.entries.items()}
        assert self.volume.inode(node.ino).entries == len(node.entries)
        if node.nlink:
            assert self.volume.lookup(node.ino, b"..").ino == node.parent.ino
        else:  # its parent may be gone, and the number another's
            with pytest.raises(PmemfsError, match="has been removed"):
                self.volume.lookup(node.ino, b"..")

    def compare_data(self, node: Node) -> None:
        """Compare what is data byte by byte; all else must be a hole in both."""
        offset = 0
        left = set(node.pages)
        while offset < node.size:
            try:
                low = self.volume.seek(node.ino, offset, data=True)
            except OSError as error:
                assert error.errno == errno.ENXIO  # noqa: PT017
                break
            offset = self.volume.seek(node.ino, low, data=False)
            self.compare(node, low, offset - low)
            left = {n for n in left if not low <= n * PAGE_BYTES < offset}
        assert all(node.pages[n] == m.ZERO_PAGE for n in left), (node.ino, left)

    @invariant()
    def design_holds(self) -> None:
        self.steps += 1
        if not hasattr(self, "volume"):
            return
        validate_volume(self.volume)
        if self.steps % FSCK_EVERY == 0:
            assert findings_of(self.path) == []

    # -- the end -----------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if hasattr(self, "volume") and sys.exc_info()[0] is None:
                self.finish()
        finally:
            HostDevice.full = False
            if hasattr(self, "volume"):
                self.volume.abandon()  # a traceback may keep this object, not the image's memory
            self.nodes.clear()
            self.root.entries.clear()
            self.directory.cleanup()

    def finish(self) -> None:
        self.compare_all()
        self.volume.close()
        assert findings_of(self.path) == []
        self.open()
        for node in self.nodes:
            node.holds = 0
        self.forget_gone()
        self.compare_all()
        remove_tree(self.volume)
        idle(self.volume)
        validate_volume(self.volume)
        validate_empty(self.volume)
        assert self.volume.pool.free_pages == self.free_pages
        self.volume.close()
        assert findings_of(self.path) == []


class Listing:
    """A listing under way: what must be in it, what was seen, and where it stands."""

    def __init__(self, directory: Node) -> None:
        self.directory = directory
        self.steady = set(directory.entries)
        self.seen: list[bytes] = []
        self.cookie = 0


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        VolumeMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_held_directory_that_was_removed() -> None:
    """Found by chance, in one run of many: the model let it keep its parent."""
    machine = VolumeMachine()
    machine.begin(threshold=1)
    machine.mkdir(0, b"a")
    machine.hold(1)
    machine.rmdir(0, 1, b"a")
    assert machine.nodes[1].nlink == 0
    machine.compare_all()
    machine.teardown()


def test_volume_behaves_like_the_model() -> None:
    run(examples=int(os.environ.get("PMEMFS_EXAMPLES", "60")), steps=40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_volume_behaves_like_the_model_for_long() -> None:
    run(examples=int(os.environ.get("PMEMFS_EXAMPLES", "1000")), steps=100)
