"""Images mounted by the real program, and the same calls made on two trees to compare them."""

from __future__ import annotations

import contextlib
import ctypes.util
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pmemfs import fsck
from pmemfs.cli import main
from pmemfs.fs import Volume
from pmemfs.fuse import mounts
from pmemfs.image import Image

PROGRAM = [sys.executable, "-m", "pmemfs"]
MIB = 1 << 20
FRONTEND = os.environ.get("PMEMFS_TEST_FRONTEND", "native")
_BAD_LOG = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback", "Fatal Python error")


def why_no_mount() -> str | None:
    """Return why nothing can be mounted here, or None."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    if ctypes.util.find_library("fuse") is None:
        return "libfuse 2 is not installed"
    if os.geteuid() != 0 and shutil.which("fusermount") is None:
        return "fusermount is not installed, and this is not root"
    return None


NEEDS_MOUNT = [
    pytest.mark.mount,
    pytest.mark.skipif(why_no_mount() is not None, reason=str(why_no_mount())),
]
ONLY_FUSEPY = pytest.mark.skipif(FRONTEND != "fusepy", reason="about what libfuse 2 cannot carry")
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def needs_program(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


def memory_folder() -> str | None:
    """Return a folder in memory for images and reference trees, None where there is none."""
    folder = "/dev/shm"
    return folder if os.path.isdir(folder) and os.access(folder, os.W_OK) else None


@contextlib.contextmanager
def scratch(name: str = "pmemfs-test-") -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=name, dir=memory_folder()))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def run(
    *arguments: str | Path, check: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``pmemfs`` with arguments; raises with its output when it fails and ``check``."""
    options.setdefault("timeout", 100)
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )
    if check and done.returncode:
        raise AssertionError(f"pmemfs {arguments}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def run_here(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Do what `run` does in this process, which is faster; not for what forks."""
    result = CliRunner().invoke(main, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if check and result.exit_code:
        raise AssertionError(f"pmemfs {arguments}: {result.exit_code}\n{result.output}")
    return subprocess.CompletedProcess(["pmemfs"], result.exit_code, result.stdout, result.stderr)


def wait_until(condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    """Return the first true value of ``condition``, or its last value at the time-out."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


class Mounted:
    """One image that is mounted and unmounted by the program, in a folder of its own."""

    frontend = FRONTEND

    def __init__(self, folder: Path, size_bytes: int = 256 * MIB) -> None:
        self.image = folder / "disk.img"
        self.directory = folder / "mnt"
        self.log = folder / "log" / "disk.log"
        self.pid = 0
        Volume.format(self.image, size_bytes)
        self.directory.mkdir()

    def mount(self, options: str = "") -> str:
        """Mount; return what the program printed."""
        arguments = ["-o", options] if options else []
        more = ["--log", self.log, "--frontend", self.frontend, *arguments]
        done = run("mount", self.image, self.directory, *more)
        (self.pid,) = mounts.lock_holders(str(self.image))
        return done.stdout

    def umount(self) -> None:
        run_here("umount", self.directory)
        self.pid = 0

    def remount(self, options: str = "") -> str:
        self.umount()
        return self.mount(options)

    def kill(self) -> None:
        """Kill the daemon; the dead mount stays."""
        os.kill(self.pid, signal.SIGKILL)
        assert wait_until(lambda: not mounts.lock_holders(str(self.image)))
        self.pid = 0

    def fsck(self) -> None:
        assert_clean(self.image)

    def usage(self) -> dict[str, Any]:
        usage: dict[str, Any] = json.loads(
            run_here("inspect", "usage", self.image, "--json").stdout
        )
        return usage

    def assert_quiet(self) -> None:
        """Assert that nobody logged a warning or worse."""
        if self.log.exists():
            text = self.log.read_text()
            assert not [line for line in text.splitlines() if any(b in line for b in _BAD_LOG)], (
                text
            )

    def finish(self) -> None:
        """Unmount, check everything."""
        if mounts.find_mount(str(self.directory)) is not None:
            self.umount()
        self.assert_quiet()
        self.fsck()

    def clean_up(self) -> None:
        """Leave no mount and no process behind, whatever happened."""
        if mounts.find_mount(str(self.directory)) is not None:
            mounts.unmount(str(self.directory), lazy=True)
        for pid in mounts.lock_holders(str(self.image)) - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not mounts.lock_holders(str(self.image)) - {os.getpid()})


@contextlib.contextmanager
def mounted(
    folder: Path, options: str = "idle=1", mounted_class: type[Mounted] = Mounted, **more: Any
) -> Iterator[Mounted]:
    """Make and mount an image; afterwards unmount, look at the log and run fsck."""
    one = mounted_class(folder, **more)
    try:
        one.mount(options)
        yield one
        one.finish()
    finally:
        one.clean_up()


def assert_clean(image: Path) -> None:
    opened = Image.open(image, lock="shared")
    try:
        report = fsck.check(opened)
    finally:
        opened.close()
    assert report.is_clean, [str(finding) for finding in report.findings]


# -- the same on two trees -------------------------------------------------------------------


class Pair:
    """A directory of the mount, and one of a tmpfs."""

    def __init__(self, ours: Path, reference: Path) -> None:
        self.ours = ours
        self.reference = reference

    def same(self, operation: Callable[[str], Any]) -> Any:
        """Do it in both; assert that result or errno are equal, and return them."""
        ours, reference = outcome(operation, self.ours), outcome(operation, self.reference)
        assert ours == reference
        return ours

    def same_tree(self) -> None:
        assert tree(self.ours) == tree(self.reference)


def outcome(operation: Callable[[str], Any], root: Path | str) -> Any:
    """Return what a call returns, or the name of its errno."""
    try:
        return operation(str(root))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, error.errno)


def as_user(uid: int, call: Callable[[], Any]) -> str:
    """Make a call as another user in a process of its own; return its result or its errno's name.

    A result that is no text comes as its `repr`.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        text = "E: it ended early"
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            result = outcome(lambda _: call(), "")
            text = result if isinstance(result, str) else repr(result)
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def facts(path: str | bytes) -> dict[str, Any]:
    """Return what stat says, as far as two file systems should agree."""
    st = os.lstat(path)
    values = {
        "mode": oct(st.st_mode), "nlink": st.st_nlink, "uid": st.st_uid, "gid": st.st_gid,
        "rdev": st.st_rdev,
    }  # fmt: skip
    if not stat.S_ISDIR(st.st_mode):
        values["size"] = st.st_size
    return values


def tree(root: Path | str) -> dict[bytes, Any]:
    """Return everything below a directory: facts, contents, targets, which names are one file."""
    top = os.fsencode(root)
    found: dict[bytes, Any] = {}
    first_names: dict[int, bytes] = {}
    for folder, names, files in os.walk(top):
        names.sort()
        for name in sorted(names + files):
            path = os.path.join(folder, name)
            entry = facts(path)
            key = os.path.relpath(path, top)
            entry["same as"] = first_names.setdefault(os.lstat(path).st_ino, key)
            if os.path.islink(path):
                entry["target"] = os.readlink(path)
            elif os.path.isfile(path):
                entry["data"] = Path(os.fsdecode(path)).read_bytes()
            found[key] = entry
    return found
