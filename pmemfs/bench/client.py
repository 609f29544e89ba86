"""The client whose calls are timed: small files, a source tree, sqlite; one phase for each run.

Run as a program of its own, by path and with ``python -I -S``, so that it is the same small process
on every file system: it imports the standard library only, and prints one JSON object of figures
to stdout. Figures in ms are of whole commands, all others are operations per second.

What writes file data through the page cache (create, unpack, cp) is timed until syncfs has
returned, so that what is put off counts too. The rest is not synced.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

Figures = dict[str, float]

SMALL_FILE_BYTES = 1024
REPEATS = 5  # of commands that take a few milliseconds
INSERTS_PER_COMMIT = 5
PATTERN = "ZeroDivisionError"

_libc = ctypes.CDLL(None, use_errno=True)
_GIT_ENVIRONMENT = {
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "LC_ALL": "C",
}


class Timed:
    """Seconds that a ``with timed()`` block took."""

    seconds = 0.0


@contextmanager
def timed() -> Iterator[Timed]:
    """Time a block."""
    result = Timed()
    begin = time.perf_counter()
    yield result
    result.seconds = time.perf_counter() - begin


def sync(directory: str) -> None:
    """Write out the file system of a directory, and only that."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed", directory)
    finally:
        os.close(fd)


def names(count: int) -> list[str]:
    """Return the names of the small files, in the order of their making."""
    return [f"file-{number:06d}.txt" for number in range(count)]


def shuffled(count: int) -> list[str]:
    """Return the same names in an order that is the same each time."""
    result = names(count)
    random.Random(count).shuffle(result)
    return result


# -- small files -----------------------------------------------------------------------------


def files_fill(directory: str, count: int) -> Figures:
    """Create small files in one directory, look at them while they are known, rename them."""
    home = os.path.join(directory, "files")
    os.mkdir(home)
    data = random.Random(0).randbytes(SMALL_FILE_BYTES)
    os.chdir(home)
    with timed() as create:
        for name in names(count):
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, data)
            os.close(fd)
        sync(".")
    with timed() as stat_new:
        for name in shuffled(count):
            os.stat(name)
    with timed() as stat:
        for name in shuffled(count):
            os.stat(name)
    with timed() as readdir:
        n_listed = len(os.listdir("."))
    with timed() as listing:
        list_long()
    with timed() as rename:
        for name in names(count):
            os.rename(name, "new-" + name)
    if n_listed != count:
        raise SystemExit(f"readdir gave {n_listed} names of {count}")
    return {
        "create": count / create.seconds,
        "stat-new": count / stat_new.seconds,
        "stat": count / stat.seconds,
        "readdir": count / readdir.seconds,
        "ls-l": count / listing.seconds,
        "rename": count / rename.seconds,
    }


def list_long() -> None:
    """Read the working directory and stat what is in it, as ``ls -l``."""
    with os.scandir(".") as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)


def files_stat_cold(directory: str, count: int) -> Figures:
    """Stat the files by name when the kernel knows none of them."""
    os.chdir(os.path.join(directory, "files"))
    with timed() as stat:
        for name in shuffled(count):
            os.stat("new-" + name)
    return {"stat-cold": count / stat.seconds}


def files_list_cold(directory: str, count: int) -> Figures:
    """List the files when the kernel knows none of them; then unlink them."""
    os.chdir(os.path.join(directory, "files"))
    with timed() as listing:
        list_long()
    with timed() as unlink:
        for name in names(count):
            os.unlink("new-" + name)
    return {"ls-l-cold": count / listing.seconds, "unlink": count / unlink.seconds}


# -- a source tree ---------------------------------------------------------------------------


def execute(*command: str, accept: tuple[int, ...] = (0,)) -> None:
    """Run a command with its output thrown away; raises ``SystemExit`` if it fails."""
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
    pid = os.posix_spawnp(command[0], command, os.environ | _GIT_ENVIRONMENT, file_actions=actions)
    os.close(null)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in accept:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")


def milliseconds(work: Callable[[], None], repeats: int = 1) -> float:
    """Return the median of how long some work takes."""
    results = []
    for _ in range(repeats):
        with timed() as once:
            work()
        results.append(once.seconds * 1000)
    return sorted(results)[repeats // 2]


def tree_fill(directory: str, tarball: str) -> Figures:
    """Unpack a tree that is a git repository, look at it, copy it."""
    os.chdir(directory)

    def unpack() -> None:
        execute("tar", "-xf", tarball)
        sync(".")

    def copy() -> None:
        execute("cp", "-a", "tree", "copy")
        sync(".")

    figures = {"unpack": milliseconds(unpack)}
    git_status()  # the first one refreshes git's index of times and inode numbers
    figures["git-status"] = milliseconds(git_status, REPEATS)
    figures["du"] = milliseconds(lambda: execute("du", "-s", "tree"), REPEATS)
    figures["grep-r"] = milliseconds(grep)
    figures["cp-a"] = milliseconds(copy)
    return figures


def git_status() -> None:
    """Run git status; the tree belongs to whoever runs this."""
    execute("git", "-C", "tree", "status", "--porcelain")


def grep() -> None:
    """Read the whole tree, looking for a word; finding none is no error."""
    execute("grep", "-r", PATTERN, "tree", accept=(0, 1))


def tree_cold(directory: str, tarball: str) -> Figures:
    """Read the tree when the kernel has nothing of it; then remove both."""
    os.chdir(directory)
    figures = {"grep-r-cold": milliseconds(grep)}
    figures["rm-rf"] = milliseconds(lambda: execute("rm", "-rf", "tree", "copy"))
    return figures


# -- sqlite ----------------------------------------------------------------------------------


def sqlite(directory: str, rows: int) -> Figures:
    """Insert in small transactions and select, in both journal modes."""
    figures: Figures = {}
    for mode in ("delete", "wal"):
        path = os.path.join(directory, f"{mode}.db")
        figures |= {f"sqlite-{mode}-{key}": value for key, value in sqlite_run(path, mode, rows)}
    return figures


def sqlite_run(path: str, mode: str, rows: int) -> list[tuple[str, float]]:
    """Return inserts and selects per second; synchronous=FULL, the cache too small for all."""
    chance = random.Random(rows)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        answer = db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
        if answer != mode:
            raise SystemExit(f"sqlite does not do journal_mode={mode} here, but {answer}")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_size=50")
        db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, data BLOB)")
        db.execute("CREATE INDEX item_name ON item (name)")
        data = chance.randbytes(200)
        with timed() as insert:
            for first in range(0, rows, INSERTS_PER_COMMIT):
                db.execute("BEGIN")
                for number in range(first, min(first + INSERTS_PER_COMMIT, rows)):
                    name = f"name-{chance.randrange(rows):08d}"
                    db.execute("INSERT INTO item VALUES (?, ?, ?)", (number, name, data))
                db.execute("COMMIT")
        with timed() as select:
            for _ in range(rows):
                key = (chance.randrange(rows),)
                db.execute("SELECT name, data FROM item WHERE id = ?", key).fetchone()
    return [("insert", rows / insert.seconds), ("select", rows / select.seconds)]


# -- the program -----------------------------------------------------------------------------


PHASES: dict[str, Callable[[str, str], Figures]] = {
    "files-fill": lambda directory, count: files_fill(directory, int(count)),
    "files-stat-cold": lambda directory, count: files_stat_cold(directory, int(count)),
    "files-list-cold": lambda directory, count: files_list_cold(directory, int(count)),
    "tree-fill": tree_fill,
    "tree-cold": tree_cold,
    "sqlite": lambda directory, rows: sqlite(directory, int(rows)),
}


def main() -> None:
    """Run one phase and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=PHASES)
    parser.add_argument("directory", help="a mounted directory")
    parser.add_argument("argument", help="how many files or rows, or the tarball")
    words = parser.parse_args()
    figures = PHASES[words.phase](words.directory, words.argument)
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
