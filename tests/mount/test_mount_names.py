"""Names, links and directories through the mount, beside a tmpfs."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mount_run import NEEDS_MOUNT, Mounted, Pair, outcome

pytestmark = NEEDS_MOUNT
MOUNT_OPTIONS = "attr_timeout=0"


def test_names_of_every_byte(pair: Pair) -> None:
    names = [bytes([b]) for b in range(1, 256) if b not in b"/."]
    names += [b"a" + name + b"z" for name in names]
    names += [
        bytes(random.Random(i).choices([b for b in range(1, 256) if b != 47], k=255))
        for i in range(20)
    ]
    names += [
        "ä€😀".encode(),
        b"\xff\xfe",
        b"...",
        b".x",
        b"  ",
        b"-rf",
        b"a\nb",
        b"\\040",
        b"%s%n",
    ]

    def make(root: str) -> list[bytes]:
        for name in names:
            path = os.fsencode(root) + b"/" + name
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.rename(path, path)
            os.stat(path)
        return sorted(os.listdir(os.fsencode(root)))

    assert pair.same(make) == sorted(names)
    pair.same(lambda r: [os.unlink(os.fsencode(r) + b"/" + name) for name in names])
    pair.same_tree()


@pytest.mark.parametrize("length", [1, 254, 255, 256, 1000])
def test_length_of_names(length: int, pair: Pair) -> None:
    calls = [os.mkdir, os.rmdir, lambda p: os.symlink("x", p), os.unlink, os.mkfifo, os.unlink,
             lambda p: Path(p).touch(), lambda p: os.rename(p, p[:-1] + "y"), os.lstat]  # fmt: skip
    for call in calls:
        pair.same(lambda r, c=call: c(f"{r}/" + "n" * length) and None)
    expected = "ENAMETOOLONG" if length > 255 else None
    assert outcome(lambda r: os.mkdir(f"{r}/" + "m" * length), pair.ours) == expected


def test_deep_directories(pair: Pair) -> None:
    def dig(root: str) -> int:
        fd = os.open(root, os.O_RDONLY)
        for _ in range(200):
            os.mkdir("d" * 100, dir_fd=fd)
            deeper = os.open("d" * 100, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        inode = os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        written = os.write(inode, b"deep")
        os.close(inode)
        os.close(fd)
        return written

    pair.same(dig)


@pytest.mark.parametrize("seed", range(3))
def test_symbolic_links_of_any_length(seed: int, pair: Pair) -> None:
    lengths = {1, 2, 119, 120, 121, 4094, 4095} | set(
        random.Random(seed).sample(range(1, 4096), 40)
    )

    def make(root: str) -> list[Any]:
        seen = []
        for length in sorted(lengths):
            path = os.fsencode(f"{root}/l{length}")
            target = bytes(random.Random(length).choices(range(1, 256), k=length))
            os.symlink(target, path)
            seen.append((os.readlink(path) == target, os.lstat(path).st_size))
        return seen

    assert all(same for same, _ in pair.same(make))


@pytest.mark.parametrize("length", [4096, 5000])
def test_symbolic_links_that_are_too_long(length: int, pair: Pair) -> None:
    assert pair.same(lambda r: os.symlink("t" * length, f"{r}/l")) == "ENAMETOOLONG"


def test_chains_of_symbolic_links(pair: Pair) -> None:
    def chain(root: str) -> list[Any]:
        Path(f"{root}/l0").write_bytes(b"end")
        for i in range(1, 50):
            os.symlink(f"l{i - 1}", f"{root}/l{i}")
        return [outcome(lambda r, i=i: Path(f"{r}/l{i}").read_bytes(), root) for i in range(50)]

    assert pair.same(chain)[-1] == "ELOOP"


def test_hard_links(pair: Pair) -> None:
    def link(root: str) -> list[Any]:
        Path(f"{root}/a").write_bytes(b"data")
        os.mkdir(f"{root}/d")
        os.link(f"{root}/a", f"{root}/b")
        os.link(f"{root}/b", f"{root}/d/c")
        seen: list[Any] = [os.stat(f"{root}/{n}").st_nlink for n in ("a", "b", "d/c")]
        seen.append(len({os.stat(f"{root}/{n}").st_ino for n in ("a", "b", "d/c")}))
        os.rename(f"{root}/a", f"{root}/b")  # the same file: nothing happens
        seen.append(sorted(os.listdir(root)))
        os.unlink(f"{root}/a")
        os.chmod(f"{root}/b", 0o600)
        os.symlink("b", f"{root}/l")
        os.link(f"{root}/l", f"{root}/m", follow_symlinks=False)
        seen.append(os.readlink(f"{root}/m"))
        return [*seen, os.stat(f"{root}/d/c").st_nlink, oct(os.stat(f"{root}/d/c").st_mode)]

    pair.same(link)
    pair.same_tree()


def test_a_removed_open_file_keeps_its_other_names(pair: Pair) -> None:
    def use(root: str) -> list[Any]:
        with open(f"{root}/one", "wb", buffering=0) as file:
            os.link(f"{root}/one", f"{root}/two")
            os.unlink(f"{root}/one")
            file.write(b"data")
            links = [os.fstat(file.fileno()).st_nlink]
            os.link(f"{root}/two", f"{root}/three")
            file.write(b"more")
            links.append(os.fstat(file.fileno()).st_nlink)
            return [links, Path(f"{root}/two").read_bytes()]

    pair.same(use)
    pair.same_tree()


@pytest.mark.parametrize("first", ["nothing", "remove"])
def test_rename_between_two_names_of_an_open_file(first: str, pair: Pair) -> None:
    def use(root: str) -> list[Any]:
        with open(f"{root}/one", "wb", buffering=0) as file:
            os.link(f"{root}/one", f"{root}/two")
            if first == "remove":
                os.unlink(f"{root}/one")
            os.rename(f"{root}/two", f"{root}/one")
            file.write(b"data")
            seen = [sorted(os.listdir(root)), os.fstat(file.fileno()).st_nlink]
        return [*seen, Path(f"{root}/one").read_bytes()]

    pair.same(use)
    pair.same_tree()


@pytest.mark.slow
def test_the_limit_of_hard_links(ours: Path) -> None:
    """Linux's own limit of tmpfs is memory; here it is as on ext4, said by EMLINK."""
    (ours / "f").touch()

    def link(root: str) -> None:
        for i in range(100_000):
            os.link(f"{root}/f", f"{root}/l{i}")

    assert outcome(link, ours) == "EMLINK"
    assert os.stat(ours / "f").st_nlink >= 1000


# -- directories -----------------------------------------------------------------------------


def test_dot_and_dot_dot(ours: Path) -> None:
    (ours / "d/e").mkdir(parents=True)
    assert (
        os.stat(ours / "d/.").st_ino
        == os.stat(ours / "d").st_ino
        == os.stat(ours / "d/e/..").st_ino
    )
    listed = subprocess.run(["ls", "-ai", ours / "d"], capture_output=True, text=True, check=True)
    entries = listed.stdout.split()
    assert dict(zip(entries[1::2], map(int, entries[::2]))) == {
        ".": os.stat(ours / "d").st_ino,
        "..": os.stat(ours).st_ino,
        "e": os.stat(ours / "d/e").st_ino,
    }


def test_types_in_a_listing(ours: Path) -> None:
    (ours / "f").touch()
    (ours / "d").mkdir()
    os.symlink("f", ours / "l")
    os.mkfifo(ours / "p")
    with os.scandir(ours) as entries:
        kinds = {
            e.name: (e.is_file(follow_symlinks=False), e.is_dir(), e.is_symlink(), e.inode())
            for e in entries
        }
    inodes = {name: os.lstat(ours / name).st_ino for name in "fdlp"}
    assert kinds == {
        "f": (True, False, False, inodes["f"]),
        "d": (False, True, False, inodes["d"]),
        "l": (False, False, True, inodes["l"]),
        "p": (False, False, False, inodes["p"]),
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_listing_while_entries_come_and_go(seed: int, ours: Path) -> None:
    rng = random.Random(seed)
    stay = {f"stay{i:04}-{'x' * rng.randrange(100)}" for i in range(800)}
    go = [f"go{i:04}" for i in range(300)]
    for name in rng.sample([*stay, *go], len(stay) + len(go)):
        (ours / name).touch()
    seen: list[str] = []
    with os.scandir(ours) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number % 3 == 0 and go:
                (ours / go.pop()).unlink()
                (ours / f"new{number}").touch()
                (ours / f"new{number}").rename(ours / f"newer{number}")
    assert stay <= set(seen)
    assert len(seen) == len(set(seen))


def test_rewinding_a_listing_shows_what_is_new(ours: Path) -> None:
    (ours / "a").touch()
    fd = os.open(ours, os.O_RDONLY)
    try:
        assert os.listdir(fd) == ["a"]
        (ours / "b").touch()
        os.lseek(fd, 0, os.SEEK_SET)
        assert sorted(os.listdir(fd)) == ["a", "b"]
    finally:
        os.close(fd)


def test_a_large_directory(own_mount: Mounted) -> None:
    folder = own_mount.directory / "large"
    folder.mkdir()
    n = 3000
    for i in range(n):
        os.mknod(folder / f"entry-{i}")
    assert len(os.listdir(folder)) == n
    own_mount.remount()
    names = os.listdir(folder)
    assert len(set(names)) == len(names) == n
    for name in names:
        os.unlink(folder / name)
    assert os.listdir(folder) == []
    folder.rmdir()


def test_rename_over_whatever_is_there(pair: Pair) -> None:
    def rename(root: str) -> list[Any]:
        seen = []
        for number, (old, new) in enumerate(
            (a, b)
            for a in ("file", "dir", "full", "link", "fifo")
            for b in ("file", "dir", "full", "link", "fifo")
        ):
            for place, kind in (("a", old), ("b", new)):
                path = f"{root}/{number}{place}"
                if kind == "file":
                    Path(path).write_bytes(place.encode())
                elif kind == "link":
                    os.symlink(place, path)
                elif kind == "fifo":
                    os.mkfifo(path)
                else:
                    os.mkdir(path)
                if kind == "full":
                    Path(path, "inside").touch()
            seen.append(outcome(lambda r, n=number: os.rename(f"{r}/{n}a", f"{r}/{n}b"), root))
        return seen

    pair.same(rename)
    pair.same_tree()


def test_rename_between_directories(pair: Pair) -> None:
    def rename(root: str) -> list[Any]:
        os.makedirs(f"{root}/a/b/c")
        os.makedirs(f"{root}/x/y")
        Path(f"{root}/a/b/file").write_bytes(b"1")
        os.rename(f"{root}/a/b", f"{root}/x/y/b")
        seen: list[Any] = [outcome(lambda r: os.rename(f"{r}/x", f"{r}/x/y/b/c/x"), root)]
        seen.append(os.stat(f"{root}/x/y/b/..").st_ino == os.stat(f"{root}/x/y").st_ino)
        seen += [os.stat(f"{root}/{p}").st_nlink for p in ("a", "x", "x/y", "x/y/b")]
        os.rename(f"{root}/x/y/b/file", f"{root}/file")
        return [*seen, Path(f"{root}/file").read_bytes()]

    pair.same(rename)
    pair.same_tree()


def test_names_that_libfuse_uses_for_hidden_files(pair: Pair) -> None:
    def use(root: str) -> list[Any]:
        name = f"{root}/.fuse_hidden0123456789abcdef"
        Path(name).write_bytes(b"mine")
        os.rename(name, f"{root}/x")
        os.rename(f"{root}/x", name)
        os.link(name, f"{root}/y")
        os.unlink(name)
        os.mkdir(name)
        os.rmdir(name)
        return [Path(f"{root}/y").read_bytes(), os.listdir(root)]

    pair.same(use)
    pair.same_tree()


def test_everything_is_there_after_a_remount(own_mount: Mounted) -> None:
    root = own_mount.directory
    rng = random.Random(5)
    expected = {}
    for i in range(60):
        path = root / f"d{i % 7}" / ("n" * rng.randrange(1, 200) + str(i))
        path.parent.mkdir(exist_ok=True)
        data = rng.randbytes(rng.choice((0, 1, 4096, 70000)))
        path.write_bytes(data)
        os.setxattr(path, "user.n", b"%d" % i)
        os.utime(path, ns=(i, i * 10**9 + 1))
        expected[path] = data, i
    own_mount.remount()
    for path, (data, i) in expected.items():
        assert path.read_bytes() == data
        assert os.getxattr(path, "user.n") == b"%d" % i
        assert path.stat().st_mtime_ns == i * 10**9 + 1
