"""Names: each operation's errnos are Linux's, and link counts and times follow."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from volumes import REGULAR, ManualClock, VolumeBed, idle

from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import LINK_MAX

LONG = b"x" * 256


@contextmanager
def fails(code: int) -> Iterator[None]:
    """Expect an errno."""
    with pytest.raises(OSError, match=r"\w") as caught:  # a sentence comes with it
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]


def tree(volume: Volume) -> tuple[int, int, int]:
    """Make a file, a directory with a file in it, and a symlink; return their inode numbers."""
    file = volume.create(ROOT_INO, b"file", REGULAR)
    directory = volume.mkdir(ROOT_INO, b"dir", 0o755)
    volume.create(directory.ino, b"inner", REGULAR)
    link = volume.symlink(ROOT_INO, b"link", b"file")
    return file.ino, directory.ino, link.ino


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (LONG, errno.ENAMETOOLONG),
        (b"", errno.ENOENT),
        (b"a/b", errno.EINVAL),
        (b"a\0b", errno.EINVAL),
        (b"file", errno.EEXIST),
        (b".", errno.EEXIST),
        (b"..", errno.EEXIST),
    ],
)
def test_a_name_that_cannot_be_made(volume: Volume, name: bytes, code: int) -> None:
    tree(volume)
    other = volume.create(ROOT_INO, b"other", REGULAR)
    sequence = volume.journal.sequence
    with fails(code):
        volume.create(ROOT_INO, name, REGULAR)
    with fails(code):
        volume.mkdir(ROOT_INO, name, 0o755)
    with fails(code):
        volume.symlink(ROOT_INO, name, b"target")
    with fails(code):
        volume.link(other.ino, ROOT_INO, name)
    assert volume.journal.sequence == sequence, "nothing was committed"


@pytest.mark.parametrize("name", [LONG, b"", b"a/b", b"missing"])
def test_a_name_that_cannot_be_found(volume: Volume, name: bytes) -> None:
    tree(volume)
    code = {LONG: errno.ENAMETOOLONG, b"a/b": errno.EINVAL}.get(name, errno.ENOENT)
    for call in (volume.lookup, volume.unlink, volume.rmdir):
        with fails(code):
            call(ROOT_INO, name)
    with fails(code):
        volume.rename(ROOT_INO, name, ROOT_INO, b"new")


def test_any_bytes_make_a_name(volume: Volume) -> None:
    every = [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
    every += [b"\xff" * 255, "ünïcödé ☃".encode(), b"-rf", b"...", b"\n\r\t\x1b[31m"]
    for name in every:
        volume.create(ROOT_INO, name, REGULAR)
    listed = {entry.name for entry in volume.readdir(ROOT_INO)}
    assert listed == {*every, b".", b".."}
    assert all(volume.lookup(ROOT_INO, name).is_file for name in every)


def test_a_file_is_no_directory(volume: Volume) -> None:
    file, _, link = tree(volume)
    for ino in (file, link):
        with fails(errno.ENOTDIR):
            volume.lookup(ino, b"x")
        with fails(errno.ENOTDIR):
            volume.create(ino, b"x", REGULAR)
        with fails(errno.ENOTDIR):
            volume.unlink(ino, b"x")
        with fails(errno.ENOTDIR):
            volume.rename(ino, b"x", ROOT_INO, b"y")
        with fails(errno.ENOTDIR):
            volume.rename(ROOT_INO, b"file", ino, b"y")
        with fails(errno.ENOTDIR):
            list(volume.readdir(ino))


def test_create_makes_neither_directories_nor_links(volume: Volume) -> None:
    for mode in (stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777):
        with fails(errno.EINVAL):
            volume.create(ROOT_INO, b"x", mode)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_special_files(bed: VolumeBed, volume: Volume, kind: int) -> None:
    ino = volume.create(ROOT_INO, b"special", kind | 0o620, 5, 6, rdev=0x12345678).ino
    volume = bed.reopen(volume)
    inode = volume.lookup(ROOT_INO, b"special")
    rdev = 0x12345678 if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    assert (inode.ino, inode.mode, inode.rdev) == (ino, kind | 0o620, rdev)
    with fails(errno.EINVAL):
        volume.read(ino, 0, 1)
    volume.unlink(ROOT_INO, b"special")


def test_an_inode_that_is_not_there(volume: Volume) -> None:
    for ino in (0, 2, 8191, 8192, 1 << 31):
        with fails(errno.ENOENT):
            volume.inode(ino)
    with fails(errno.ENOENT):
        volume.link(99, ROOT_INO, b"x")


# -- unlink, rmdir -------------------------------------------------------------------------------


def test_unlink_and_rmdir_know_what_they_remove(volume: Volume) -> None:
    tree(volume)
    with fails(errno.EISDIR):
        volume.unlink(ROOT_INO, b"dir")
    with fails(errno.ENOTDIR):
        volume.rmdir(ROOT_INO, b"file")
    with fails(errno.ENOTDIR):
        volume.rmdir(ROOT_INO, b"link")
    with fails(errno.ENOTEMPTY):
        volume.rmdir(ROOT_INO, b"dir")
    with fails(errno.EINVAL):
        volume.rmdir(ROOT_INO, b".")
    with fails(errno.ENOTEMPTY):
        volume.rmdir(ROOT_INO, b"..")


def test_a_removed_directory_takes_no_names(volume: Volume) -> None:
    ino = volume.mkdir(ROOT_INO, b"gone", 0o755).ino
    file = volume.create(ROOT_INO, b"file", REGULAR)
    volume.hold(ino)
    volume.rmdir(ROOT_INO, b"gone")
    for call in (
        lambda: volume.create(ino, b"x", REGULAR),
        lambda: volume.mkdir(ino, b"x", 0o755),
        lambda: volume.symlink(ino, b"x", b"y"),
        lambda: volume.link(file.ino, ino, b"x"),
        lambda: volume.rename(ROOT_INO, b"file", ino, b"x"),
        lambda: volume.lookup(ino, b"x"),
    ):
        with fails(errno.ENOENT):
            call()
    assert [entry.name for entry in volume.readdir(ino)] == [b".", b".."]
    volume.release(ino)
    with fails(errno.ENOENT):
        volume.inode(ino)


# -- links ---------------------------------------------------------------------------------------


def test_link_errors(volume: Volume) -> None:
    file, directory, link = tree(volume)
    with fails(errno.EPERM):
        volume.link(directory, ROOT_INO, b"second")
    volume.link(link, ROOT_INO, b"link2")
    with fails(errno.EEXIST):
        volume.link(file, ROOT_INO, b"dir")
    volume.unlink(ROOT_INO, b"file")
    with fails(errno.ENOENT):
        volume.link(file, ROOT_INO, b"again")


def test_a_large_file_that_is_being_freed_gets_no_name(volume: Volume) -> None:
    file = volume.create(ROOT_INO, b"file", REGULAR)
    volume.write(file.ino, 0, bytes(40 << 20))
    volume.unlink(ROOT_INO, b"file")
    assert file in volume.orphans, "too much for one transaction"
    with fails(errno.ENOENT):
        volume.link(file.ino, ROOT_INO, b"again")


def test_a_file_without_a_name_gets_one(bed: VolumeBed, volume: Volume) -> None:
    file = volume.tmpfile(ROOT_INO, 0o600)
    volume.write(file.ino, 0, b"content")
    assert file.nlink == 0
    volume.link(file.ino, ROOT_INO, b"named")
    volume.release(file.ino)
    volume = bed.reopen(volume, crash=True)
    assert bytes(volume.read(volume.lookup(ROOT_INO, b"named").ino, 0, 9)[0]) == b"content"


def test_a_file_without_a_name_is_gone_with_the_daemon(bed: VolumeBed, volume: Volume) -> None:
    free = volume.pool.free_pages
    volume.write(volume.tmpfile(ROOT_INO, 0o600).ino, 0, b"content")
    volume = bed.reopen(volume, crash=True)
    assert len(volume.orphans) == 1
    idle(volume)
    assert volume.pool.free_pages == free
    assert volume.inodes.in_use == 1


def test_the_link_limit(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LINK_MAX == 65000
    monkeypatch.setattr("pmemfs.fs.namespace.LINK_MAX", 4)
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    for number in range(3):
        volume.link(ino, ROOT_INO, b"%d" % number)
    with fails(errno.EMLINK):
        volume.link(ino, ROOT_INO, b"one too many")
    assert volume.inode(ino).nlink == 4
    volume.unlink(ROOT_INO, b"file")
    volume.link(ino, ROOT_INO, b"room again")


@pytest.mark.parametrize("length", [1, 136, 137, 4095])
def test_symlinks_of_any_length(bed: VolumeBed, volume: Volume, length: int) -> None:
    target = (b"/\xff\n" * 1365)[:length]
    ino = volume.symlink(ROOT_INO, b"link", target).ino
    assert volume.readlink(ino) == target
    volume = bed.reopen(volume)
    assert volume.readlink(ino) == target
    assert volume.inode(ino).size == length


def test_symlink_errors(volume: Volume) -> None:
    with fails(errno.ENOENT):
        volume.symlink(ROOT_INO, b"x", b"")
    with fails(errno.ENAMETOOLONG):
        volume.symlink(ROOT_INO, b"x", b"t" * 4096)
    file, directory, _ = tree(volume)
    for ino in (file, directory):
        with fails(errno.EINVAL):
            volume.readlink(ino)


# -- rename --------------------------------------------------------------------------------------


def test_rename_over_what_is_there(volume: Volume) -> None:
    file, directory, _ = tree(volume)
    empty = volume.mkdir(ROOT_INO, b"empty", 0o755).ino
    with fails(errno.EISDIR):
        volume.rename(ROOT_INO, b"file", ROOT_INO, b"empty")
    with fails(errno.ENOTDIR):
        volume.rename(ROOT_INO, b"empty", ROOT_INO, b"file")
    with fails(errno.ENOTEMPTY):
        volume.rename(ROOT_INO, b"empty", ROOT_INO, b"dir")
    volume.rename(ROOT_INO, b"file", ROOT_INO, b"link")
    assert volume.lookup(ROOT_INO, b"link").ino == file
    volume.rename(ROOT_INO, b"dir", ROOT_INO, b"empty")
    assert volume.lookup(ROOT_INO, b"empty").ino == directory
    with fails(errno.ENOENT):
        volume.inode(empty)
    assert volume.inode(ROOT_INO).nlink == 3


def test_rename_of_a_directory_into_itself(volume: Volume) -> None:
    _, directory, _ = tree(volume)
    below = volume.mkdir(directory, b"below", 0o755).ino
    for target in (directory, below):
        with fails(errno.EINVAL):
            volume.rename(ROOT_INO, b"dir", target, b"x")
    with fails(errno.ENOTEMPTY):
        volume.rename(directory, b"below", ROOT_INO, b"dir")


def test_rename_of_dots(volume: Volume) -> None:
    tree(volume)
    for name in (b".", b".."):
        with fails(errno.EBUSY):
            volume.rename(ROOT_INO, name, ROOT_INO, b"x")
        with fails(errno.EBUSY):
            volume.rename(ROOT_INO, b"file", ROOT_INO, name)


@pytest.mark.parametrize("flags", [3, 4, 8, 1 << 31])
def test_unknown_rename_flags(volume: Volume, flags: int) -> None:
    tree(volume)
    with fails(errno.EINVAL):
        volume.rename(ROOT_INO, b"file", ROOT_INO, b"new", flags)


def test_noreplace(volume: Volume) -> None:
    file, directory, _ = tree(volume)
    volume.link(file, ROOT_INO, b"second")
    for target in (b"link", b"dir", b"second", b"file"):
        with fails(errno.EEXIST):
            volume.rename(ROOT_INO, b"file", ROOT_INO, target, 1)
    volume.rename(ROOT_INO, b"file", directory, b"new", 1)
    assert volume.lookup(directory, b"new").ino == file


def test_rename_between_links_of_one_file_does_nothing(volume: Volume) -> None:
    file, *_ = tree(volume)
    volume.link(file, ROOT_INO, b"second")
    volume.rename(ROOT_INO, b"file", ROOT_INO, b"second")
    assert volume.inode(file).nlink == 2
    assert volume.lookup(ROOT_INO, b"file").ino == file


def test_exchange(volume: Volume) -> None:
    file, directory, _ = tree(volume)
    inner = volume.lookup(directory, b"inner").ino
    with fails(errno.ENOENT):
        volume.rename(ROOT_INO, b"file", ROOT_INO, b"missing", 2)
    with fails(errno.EINVAL):
        volume.rename(ROOT_INO, b"dir", directory, b"inner", 2)
    with fails(errno.EINVAL):
        volume.rename(directory, b"inner", ROOT_INO, b"dir", 2)
    volume.rename(ROOT_INO, b"file", directory, b"inner", 2)
    assert volume.lookup(ROOT_INO, b"file").ino == inner
    assert volume.lookup(directory, b"inner").ino == file
    other = volume.mkdir(ROOT_INO, b"other", 0o755).ino
    deep = volume.mkdir(other, b"deep", 0o755).ino
    volume.rename(ROOT_INO, b"dir", other, b"deep", 2)
    assert volume.lookup(directory, b"..").ino == other
    assert volume.lookup(deep, b"..").ino == ROOT_INO
    volume.rename(ROOT_INO, b"file", other, b"deep", 2)  # a file and a directory
    assert (volume.inode(ROOT_INO).nlink, volume.inode(other).nlink) == (5, 2)
    assert volume.lookup(directory, b"..").ino == ROOT_INO


def test_moving_a_directory_moves_its_parent_and_counts(bed: VolumeBed, volume: Volume) -> None:
    _, directory, _ = tree(volume)
    other = volume.mkdir(ROOT_INO, b"other", 0o755).ino
    volume.rename(ROOT_INO, b"dir", other, b"moved")
    volume = bed.reopen(volume)
    assert volume.lookup(directory, b"..").ino == other
    assert (volume.inode(ROOT_INO).nlink, volume.inode(other).nlink) == (3, 3)


# -- times, owners -------------------------------------------------------------------------------


def test_times_change_as_in_stat(volume: Volume, clock: ManualClock) -> None:
    file, directory, _ = tree(volume)

    def changed(call) -> dict[str, str]:
        clock.advance(1)
        times = {ino: _times(volume, ino) for ino in (ROOT_INO, directory, file)}
        call()
        out = {}
        for name, ino in (("root", ROOT_INO), ("dir", directory), ("file", file)):
            pairs = zip("amc", times[ino], _times(volume, ino))
            out[name] = "".join(letter for letter, old, new in pairs if new != old)
        return out

    def expect(root: str = "", dir: str = "", file: str = "") -> dict[str, str]:
        return {"root": root, "dir": dir, "file": file}

    assert changed(lambda: volume.write(file, 0, b"x")) == expect(file="mc")
    assert changed(lambda: volume.write(file, 0, b"y")) == expect(file="mc")
    assert changed(lambda: volume.read(file, 0, 1)) == expect()
    assert changed(lambda: volume.setattr(file, mode=0o600)) == expect(file="c")
    assert changed(lambda: volume.setattr(file, size=10)) == expect(file="mc")
    assert changed(lambda: volume.setattr(file, atime_ns=5)) == expect(file="ac")
    assert changed(lambda: volume.setxattr(file, b"user.a", b"")) == expect(file="c")
    assert changed(lambda: volume.link(file, directory, b"l")) == expect(dir="mc", file="c")
    assert changed(lambda: volume.unlink(directory, b"l")) == expect(dir="mc", file="c")
    assert changed(lambda: volume.create(directory, b"n", REGULAR)) == expect(dir="mc")
    moved = changed(lambda: volume.rename(ROOT_INO, b"file", directory, b"f"))
    assert moved == expect(root="mc", dir="mc", file="c")
    assert changed(lambda: volume.lookup(directory, b"f")) == expect()
    assert changed(lambda: list(volume.readdir(directory))) == expect()


def _times(volume: Volume, ino: int) -> tuple[int, int, int]:
    inode = volume.inode(ino)
    return inode.atime_ns, inode.mtime_ns, inode.ctime_ns


@pytest.mark.parametrize("time_ns", [-(10**18), 0, 1, 2**31 * 10**9, 9 * 10**18])
def test_times_before_1970_and_beyond_2038(bed: VolumeBed, volume: Volume, time_ns: int) -> None:
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    volume.setattr(ino, atime_ns=time_ns, mtime_ns=time_ns + 1)
    volume = bed.reopen(volume)
    assert volume.inode(ino).atime_ns == time_ns
    assert volume.inode(ino).mtime_ns == time_ns + 1


def test_a_new_owner_clears_set_id_bits(volume: Volume) -> None:
    ino = volume.create(ROOT_INO, b"file", stat.S_IFREG | 0o6755).ino
    volume.setattr(ino, uid=5)
    assert volume.inode(ino).mode == stat.S_IFREG | 0o755
    volume.setattr(ino, mode=0o6745)
    volume.setattr(ino, gid=5)
    assert volume.inode(ino).mode == stat.S_IFREG | 0o2745, "no group execute: it is a lock bit"


def test_setattr_cannot_change_the_type(volume: Volume) -> None:
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    volume.setattr(ino, mode=stat.S_IFDIR | 0o700)
    assert volume.inode(ino).mode == stat.S_IFREG | 0o700


def test_a_set_group_id_directory_hands_its_group_down(volume: Volume) -> None:
    directory = volume.mkdir(ROOT_INO, b"dir", 0o2755, 1, 77).ino
    assert volume.create(directory, b"f", REGULAR, 1, 2).gid == 77
    below = volume.mkdir(directory, b"d", 0o755, 1, 2)
    assert below.gid == 77
    assert below.mode & stat.S_ISGID


def test_inode_numbers_come_back_with_a_new_generation(volume: Volume) -> None:
    first = volume.create(ROOT_INO, b"a", REGULAR)
    ino, generation = first.ino, first.generation
    volume.unlink(ROOT_INO, b"a")
    again = volume.create(ROOT_INO, b"b", REGULAR)
    assert again.ino == ino
    assert again.generation > generation


# -- extended attributes -------------------------------------------------------------------------


def test_xattrs(bed: VolumeBed, volume: Volume) -> None:
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    with fails(errno.ENODATA):
        volume.getxattr(ino, b"user.a")
    with fails(errno.ENODATA):
        volume.removexattr(ino, b"user.a")
    assert volume.listxattr(ino) == []
    volume.setxattr(ino, b"user.a", b"")
    volume.setxattr(ino, b"trusted.b", bytes(range(256)))
    with fails(errno.EEXIST):
        volume.setxattr(ino, b"user.a", b"x", 1)
    with fails(errno.ENODATA):
        volume.setxattr(ino, b"user.c", b"x", 2)
    volume = bed.reopen(volume)
    assert volume.getxattr(ino, b"user.a") == b""
    assert volume.getxattr(ino, b"trusted.b") == bytes(range(256))
    assert volume.listxattr(ino) == [b"user.a", b"trusted.b"]
    volume.removexattr(ino, b"user.a")
    volume.removexattr(ino, b"trusted.b")
    assert volume.inode(ino).xattr == 0


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        (b"user.", b"", errno.EINVAL),
        (b"user." + b"x" * 251, b"", errno.ERANGE),
        (b"nonsense.a", b"", errno.EOPNOTSUPP),
        (b"user.a", bytes(65537), errno.E2BIG),
        (b"user.a", bytes(4096), errno.ENOSPC),
        (b"user.a", bytes(65536), errno.ENOSPC),
    ],
)
def test_xattr_errors(volume: Volume, name: bytes, value: bytes, code: int) -> None:
    ino = volume.create(ROOT_INO, b"file", REGULAR).ino
    volume.setxattr(ino, b"user.kept", b"value")
    with fails(code):
        volume.setxattr(ino, name, value)
    assert volume.listxattr(ino) == [b"user.kept"]
    assert volume.getxattr(ino, b"user.kept") == b"value"


def test_xattrs_on_directories_and_links(volume: Volume) -> None:
    _, directory, link = tree(volume)
    for ino in (ROOT_INO, directory, link):
        volume.setxattr(ino, b"trusted.a", b"x")
        assert volume.getxattr(ino, b"trusted.a") == b"x"


# -- inode flags ---------------------------------------------------------------------------------

IMMUTABLE, APPEND = 0x10, 0x20


@pytest.mark.parametrize("flags", [IMMUTABLE, APPEND])
def test_flagged_files_do_not_change(bed: VolumeBed, volume: Volume, flags: int) -> None:
    file, directory, _ = tree(volume)
    volume.write(file, 0, b"kept")
    volume.set_inode_flags(file, flags)
    volume = bed.reopen(volume)
    assert volume.inode_flags(file) == flags
    for call in (
        lambda: volume.write(file, 0, b"x"),
        lambda: volume.setattr(file, size=1),
        lambda: volume.setattr(file, mode=0o777),
        lambda: volume.setxattr(file, b"user.a", b""),
        lambda: volume.fallocate(file, 3, 0, 4096),
        lambda: volume.link(file, directory, b"second"),
        lambda: volume.unlink(ROOT_INO, b"file"),
        lambda: volume.rename(ROOT_INO, b"file", directory, b"moved"),
        lambda: volume.rename(directory, b"inner", ROOT_INO, b"file"),
    ):
        with fails(errno.EPERM):
            call()
    if flags == APPEND:
        volume.write(file, 4, b" and more")
    assert b"".join(volume.read(file, 0, 4)) == b"kept"
    volume.set_inode_flags(file, 0)
    volume.unlink(ROOT_INO, b"file")


def test_flagged_directories_keep_their_entries(volume: Volume) -> None:
    _, directory, _ = tree(volume)
    volume.set_inode_flags(directory, IMMUTABLE)
    for call in (
        lambda: volume.create(directory, b"x", REGULAR),
        lambda: volume.unlink(directory, b"inner"),
        lambda: volume.rename(directory, b"inner", ROOT_INO, b"x"),
        lambda: volume.rename(ROOT_INO, b"file", directory, b"x"),
        lambda: volume.tmpfile(directory, 0o600),
    ):
        with fails(errno.EPERM):
            call()
    volume.set_inode_flags(directory, APPEND)
    volume.create(directory, b"x", REGULAR)
    with fails(errno.EPERM):
        volume.unlink(directory, b"x")
    with fails(errno.EOPNOTSUPP):
        volume.set_inode_flags(directory, 0x1)


def test_what_cannot_be_stored_is_refused_at_once(volume: Volume) -> None:
    """Else the next one who reads it takes it for damage."""
    file = volume.create(ROOT_INO, b"file", REGULAR).ino
    with fails(errno.EINVAL):
        volume.setxattr(file, b"user.a\0b", b"")
    with fails(errno.EINVAL):
        volume.create(ROOT_INO, b"device", stat.S_IFCHR | 0o644, rdev=1 << 32)
    first, last = -(1 << 63), (1 << 63) - 1
    volume.setattr(file, atime_ns=first - 1, mtime_ns=last + 1, ctime_ns=10**20)
    assert volume.inode(file).times_ns == (first, last, last)
    assert volume.listxattr(file) == []
    assert not volume.is_read_only


def test_a_removed_directory_has_no_parent(volume: Volume) -> None:
    above = volume.mkdir(ROOT_INO, b"above", 0o755).ino
    removed = volume.mkdir(above, b"removed", 0o755).ino
    volume.mkdir(ROOT_INO, b"other", 0o755)
    volume.hold(removed)
    volume.rmdir(above, b"removed")
    volume.rmdir(ROOT_INO, b"above")
    with fails(errno.ENOENT):
        volume.lookup(removed, b"..")
    with fails(errno.ENOENT):
        volume.rename(ROOT_INO, b"other", removed, b"there")
    assert not volume.is_read_only
