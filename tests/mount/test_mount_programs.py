"""Ordinary programs on the mount: what they wrote is there, also after a remount."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from mount_run import NEEDS_MOUNT, Mounted, needs_program, scratch, tree

pytestmark = NEEDS_MOUNT
OWN_OPTIONS = "idle=1,attr_timeout=0"  # so that link counts are right at once: see the front end


def sh(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=100,
        env={**os.environ, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def real_tree() -> Path:
    """Return a tree of files that is on every machine with this program: a part of Python."""
    return Path(os.__file__).parent / "email"


def make_mixed_tree(root: Path) -> None:
    """Make files of all kinds and sizes, hard and symbolic links, holes, times, attributes."""
    rng = random.Random(7)
    for i in range(40):
        folder = root / f"d{i % 6}" / f"e{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"file-{i}-ä"
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 100, 4096, 5000, 70000, 2_200_000))))
        path.chmod(rng.choice((0o600, 0o644, 0o755)))
        os.setxattr(path, "user.number", b"%d" % i)
        os.utime(path, ns=(i * 10**9 + i, i * 10**9 + 17))
        if i % 5 == 0:
            os.link(path, root / f"hard{i}")
            os.symlink(path.relative_to(root), root / f"link{i}")
    with open(root / "sparse", "wb") as file:
        file.seek(30 << 20)
        file.write(b"end")
    os.mkfifo(root / "fifo")


def test_cp_and_diff_and_rm(own_mount: Mounted) -> None:
    source, copy = real_tree(), own_mount.directory / "copy"
    free = os.statvfs(own_mount.directory).f_bfree
    sh("cp", "-a", source, copy)
    sh("diff", "-r", source, copy)
    n_found = len(sh("find", copy, "-type", "f").splitlines())
    assert n_found == len(sh("find", source, "-type", "f").splitlines())
    du_bytes = int(sh("du", "-s", "-B1", copy).split()[0])
    assert 0 <= (free - os.statvfs(own_mount.directory).f_bfree) * 4096 - du_bytes < 20 << 20
    own_mount.remount(OWN_OPTIONS)
    sh("diff", "-r", source, copy)
    sh("rm", "-rf", copy)
    assert os.listdir(own_mount.directory) == []


@needs_program("rsync")
def test_rsync_of_a_mixed_tree(own_mount: Mounted) -> None:
    with scratch("pmemfs-source-") as source:
        make_mixed_tree(source)
        copy = own_mount.directory / "copy"
        sh("rsync", "-aHAXS", f"{source}/", copy)
        checked = sh(
            "rsync", "-aHAX", "--checksum", "--dry-run", "--itemize-changes", f"{source}/", copy
        )
        assert checked == ""
        assert tree(copy) == tree(source)
        assert (copy / "sparse").stat().st_blocks < 5000
        own_mount.remount(OWN_OPTIONS)
        assert tree(copy) == tree(source)
        second = own_mount.directory / "second"
        sh("cp", "-a", copy, second)
        assert tree(second) == tree(source)
        sh("rsync", "-aHAX", "--delete", "--exclude=*", f"{source}/d0/", second)


@needs_program("tar")
def test_tar_in_and_out(own_mount: Mounted) -> None:
    with scratch("pmemfs-source-") as source:
        make_mixed_tree(source)
        root = own_mount.directory
        sh("tar", "-C", source, "--xattrs", "-cSf", root / "archive.tar", ".")
        (root / "out").mkdir()
        sh("tar", "-C", root / "out", "--xattrs", "-xpf", root / "archive.tar")
        assert tree(root / "out") == tree(source)
        own_mount.remount(OWN_OPTIONS)
        assert tree(root / "out") == tree(source)
        with tarfile.open(root / "archive.tar") as archive:
            assert len(archive.getnames()) > 40


@needs_program("git")
def test_git(own_mount: Mounted) -> None:
    root = own_mount.directory
    repository = root / "repository"
    identity = ["-c", "user.name=N", "-c", "user.email=n@example.org", "-c", "gc.auto=0"]

    def git(*arguments: str | Path, cwd: Path = repository) -> str:
        return sh("git", *identity, *arguments, cwd=cwd)

    sh("cp", "-r", real_tree(), repository)
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    (repository / "more").write_text("more\n")
    git("add", "more")
    git("commit", "-q", "-m", "two")
    git("gc", "-q")
    assert git("status", "--porcelain") == ""
    git("clone", "-q", repository, root / "clone", cwd=root)
    own_mount.remount(OWN_OPTIONS)
    for place in (repository, root / "clone"):
        git("fsck", "--strict", cwd=place)
        assert git("status", "--porcelain", cwd=place) == ""
        assert len(git("log", "--oneline", cwd=place).splitlines()) == 2
    git("checkout", "-q", "HEAD~1")
    assert not (repository / "more").exists()


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite(mode: str, own_mount: Mounted) -> None:
    path = own_mount.directory / "data.db"
    with closing(sqlite3.connect(path)) as db:
        # a memory-mapped shared index works through FUSE's page cache
        assert db.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
        db.execute("create table t(id integer primary key, text)")
        for batch in range(30):
            with db:
                db.executemany("insert into t(text) values (?)", [("x" * (batch * 7),)] * 20)
        with db:
            db.execute("delete from t where id % 3 = 0")
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("select count(*) from t").fetchone() == (400,)
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    own_mount.remount(OWN_OPTIONS)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        assert db.execute("select count(*) from t").fetchone() == (400,)


@needs_program("fio")
@pytest.mark.parametrize(("direct", "options"), [(0, "idle=1"), (1, "idle=1"), (0, "cache=none")])
def test_fio_with_verification(direct: int, options: str, own_mount: Mounted) -> None:
    own_mount.remount(options)
    job = [
        "fio", "--name=j", f"--directory={own_mount.directory}", "--rw=randrw", "--bs=4k",
        "--size=3m", "--numjobs=2", f"--direct={direct}", "--verify=crc32c", "--ioengine=psync",
        "--fallocate=none", "--verify_fatal=1", "--fsync=200", "--verify_backlog=512",
    ]  # fmt: skip
    sh(*job, cwd=own_mount.directory)
    own_mount.remount(options)
    sh(*job, "--verify_only", cwd=own_mount.directory)
