"""The file systems to compare: how each is made, mounted, unmounted, and what it needs.

Every peer stores in the same place, a tmpfs (`/dev/shm`), without access times. The choices:

* *native*, *fusepy*: an image, mounted by ``pmemfs mount``, options as people get them.
* *passthrough_ll*: libfuse's own example in C, ``-O2``, over a tmpfs; ``cache=always``,
  ``writeback`` and validity of a day, so that the kernel may keep as much as it does for native;
  as many threads as libfuse likes. *passthrough_ll-s* is the same with one thread, which one
  client finds faster on few cores: to leave it out would flatter us.
* *fuse2fs*: ext4 in user space on an image file, with its defaults: ``kernel_cache``,
  ``big_writes`` and attributes that are asked for each time.
* *ext4-loop*: ext4 of the kernel on a loop device over an image file.

Daemons run in the foreground as children of ours, so that each is waited for by its own id.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from pmemfs.bench.process import CommandError, kill_group, run
from pmemfs.errors import PmemfsError
from pmemfs.units import MIB

MOUNT_TIMEOUT_S = 30.0
UNMOUNT_TIMEOUT_S = 60.0
PROBE_BYTES = 128 * MIB
_POLL_S = 0.005
_BUSY_TRIES = 20
_BUSY_WAIT_S = 0.1
_EXAMPLES = (
    Path("/usr/share/doc/libfuse3-dev/examples"),
    Path("/usr/share/doc/fuse3-devel/example"),
    Path("/usr/share/doc/fuse3-devel/examples"),
)
_VALID_S = 24 * 3600
_ERROR = re.compile(r" (ERROR|CRITICAL) |Fatal Python error")

Daemon = subprocess.Popen[str]


class Peer(ABC):
    """One kind of file system. ``home`` is a directory of its own; it is mounted on home/mnt."""

    name: str
    summary: str

    @abstractmethod
    def missing(self) -> str | None:
        """Return what to install before this peer can run, or None."""

    @abstractmethod
    def make(self, home: Path, size_bytes: int) -> None:
        """Make an empty file system."""

    @abstractmethod
    def mount(self, home: Path) -> Daemon | None:
        """Start mounting; return the daemon in the foreground, if there is one."""

    def unmake(self, home: Path) -> None:  # noqa: B027  # most leave only files
        """Undo what `make` did, beyond files in ``home``."""


def mount_point(home: Path) -> Path:
    """Return the directory on which a peer is mounted."""
    return home / "mnt"


def _image(home: Path) -> Path:
    return home / "disk.img"


def _start(home: Path, *command: str | Path) -> Daemon:
    """Start a daemon in a session of its own; what it says goes to home/log."""
    with open(home / "log", "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            text=True,
        )


def _missing_programs(**packages: str) -> str | None:
    """Return which Debian packages to install for programs that are not there."""
    absent = {
        name: package
        for name, package in packages.items()
        if shutil.which(name.replace("_", "-")) is None
    }
    if not absent:
        return None
    programs = ", ".join(name.replace("_", "-") for name in absent)
    return f"{programs} not found: apt-get install {' '.join(dict.fromkeys(absent.values()))}"


def _missing_fuse() -> str | None:
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse: modprobe fuse"
    if os.geteuid() != 0:
        return _missing_programs(fusermount3="fuse3")
    return None


class PmemfsPeer(Peer):
    """This project, through one of its front ends."""

    def __init__(self, frontend: str) -> None:
        self.name = frontend
        self.summary = f"pmemfs mount --frontend {frontend}, default options"
        self._program = [sys.executable, "-m", "pmemfs"]

    def missing(self) -> str | None:
        """Only /dev/fuse; the rest comes with the project and is found out by mounting."""
        return _missing_fuse()

    def make(self, home: Path, size_bytes: int) -> None:
        """Run ``pmemfs mkfs``."""
        run([*self._program, "mkfs", _image(home), "--size", str(size_bytes)])

    def mount(self, home: Path) -> Daemon:
        """Run ``pmemfs mount`` in the foreground."""
        words = [*self._program, "mount", "-f", "--frontend", self.name]
        return _start(home, *words, _image(home), mount_point(home))


class PassthroughPeer(Peer):
    """The example of libfuse 3 over a tmpfs; built once, when first needed."""

    def __init__(self, *, single_thread: bool = False) -> None:
        self.name = "passthrough_ll-s" if single_thread else "passthrough_ll"
        threads = ", one thread" if single_thread else ""
        self.summary = f"libfuse 3, C, on tmpfs; cache=always,writeback{threads}"
        self._flags = ["-s"] if single_thread else []
        self._program: Path | None = None

    def missing(self) -> str | None:
        """Name compiler, library, example and rights, whichever is not there."""
        lacking = _missing_fuse() or _missing_programs(gcc="gcc", pkg_config="pkg-config")
        if lacking:
            return lacking
        if subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode:
            return "the headers of libfuse 3 not found: apt-get install libfuse3-dev"
        if _find_example() is None:
            return (
                "passthrough_ll.c not found: apt-get install --reinstall libfuse3-dev "
                "(in a container, without the path-exclude of /usr/share/doc)"
            )
        return None if os.geteuid() == 0 else "needs root, to mount a tmpfs"

    def make(self, home: Path, size_bytes: int) -> None:
        """Mount a tmpfs, and build the program if that has not been done."""
        store = home / "store"
        store.mkdir()
        options = f"size={size_bytes},noatime,mode=0755"
        run(["mount", "-t", "tmpfs", "-o", options, "pmemfs-bench", store])
        if self._program is None:
            self._program = build_passthrough(home.parent / "passthrough_ll")

    def mount(self, home: Path) -> Daemon:
        """Start the program in the foreground."""
        options = f"source={home / 'store'},cache=always,writeback,timeout={_VALID_S}"
        assert self._program is not None
        return _start(home, self._program, "-f", *self._flags, "-o", options, mount_point(home))

    def unmake(self, home: Path) -> None:
        """Unmount the tmpfs."""
        _unmount(home / "store")


def _find_example() -> Path | None:
    for folder in _EXAMPLES:
        for name in ("passthrough_ll.c", "passthrough_ll.c.gz"):
            if (folder / name).exists():
                return folder / name
    return None


def build_passthrough(program: Path) -> Path:
    """Compile the example as ``program`` and return it; raises `PmemfsError`."""
    example = _find_example()
    if example is None:
        raise PmemfsError(errno.ENOENT, "passthrough_ll.c not found")
    source = program.with_suffix(".c")
    opener = gzip.open if example.suffix == ".gz" else open
    with opener(example, "rb") as file:
        source.write_bytes(file.read())
    flags = run(["pkg-config", "--cflags", "--libs", "fuse3"]).split()
    run(["gcc", "-O2", "-w", "-I", example.parent, source, "-o", program, *flags])
    return program


class Fuse2fsPeer(Peer):
    """ext4 in user space."""

    name = "fuse2fs"
    summary = "ext4 through fuse2fs on an image file, default options"

    def missing(self) -> str | None:
        """Name the packages."""
        return _missing_fuse() or _missing_programs(fuse2fs="fuse2fs", mke2fs="e2fsprogs")

    def make(self, home: Path, size_bytes: int) -> None:
        """Make ext4 on a sparse file."""
        make_ext4(_image(home), size_bytes)

    def mount(self, home: Path) -> Daemon:
        """Start fuse2fs in the foreground."""
        return _start(home, "fuse2fs", "-f", _image(home), mount_point(home))


class Ext4LoopPeer(Peer):
    """ext4 in the kernel; the loop device goes away with the mount."""

    name = "ext4-loop"
    summary = "ext4 in the kernel on a loop device over an image file; noatime"

    def missing(self) -> str | None:
        """Name the packages, or say that there are no loop devices here."""
        lacking = _missing_programs(mke2fs="e2fsprogs", losetup="mount")
        if lacking:
            return lacking
        if os.geteuid() != 0:
            return "needs root, to mount"
        try:
            run(["losetup", "--find"])
        except CommandError as error:
            return f"no loop device: {error} (modprobe loop)"
        return None

    def make(self, home: Path, size_bytes: int) -> None:
        """Make ext4 on a sparse file."""
        make_ext4(_image(home), size_bytes)

    def mount(self, home: Path) -> None:
        """Mount through a loop device that frees itself."""
        run(["mount", "-t", "ext4", "-o", "loop,noatime", _image(home), mount_point(home)])


def make_ext4(image: Path, size_bytes: int) -> None:
    """Make ext4 with nothing left to be initialised in the background while it is measured."""
    with open(image, "xb") as file:
        file.truncate(size_bytes)
    options = "lazy_itable_init=0,lazy_journal_init=0"
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", options, image])


def all_peers() -> dict[str, Peer]:
    """Return every peer by name; the first is what the others are compared with."""
    peers = [
        PmemfsPeer("native"),
        PmemfsPeer("fusepy"),
        PassthroughPeer(),
        PassthroughPeer(single_thread=True),
        Fuse2fsPeer(),
        Ext4LoopPeer(),
    ]
    return {peer.name: peer for peer in peers}


DEFAULT_PEERS = tuple(all_peers())


class Site:
    """A new file system of one peer, mounted for the time of a ``with``.

    On exit everything is gone again: mount, daemon, image.
    """

    def __init__(self, peer: Peer, scratch: Path, size_bytes: int) -> None:
        self.peer = peer
        self._scratch = scratch
        self._size_bytes = size_bytes
        self._home = scratch
        self._daemon: Daemon | None = None
        self._made = False

    @property
    def directory(self) -> Path:
        """The mounted directory."""
        return mount_point(self._home)

    def __enter__(self) -> Site:
        self._home = Path(tempfile.mkdtemp(prefix=f"{self.peer.name}-", dir=self._scratch))
        self.directory.mkdir()
        try:
            self._made = True
            self.peer.make(self._home, self._size_bytes)
            self._mount()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._remove()

    def remount(self) -> None:
        """Unmount and mount again, so that the kernel knows nothing of the files."""
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        self._daemon = self.peer.mount(self._home)
        deadline = time.monotonic() + MOUNT_TIMEOUT_S
        while not _is_mounted(self.directory):
            if self._daemon is not None and self._daemon.poll() is not None:
                raise PmemfsError(errno.EIO, f"does not mount: {self._log_end()}")
            if time.monotonic() > deadline:
                raise PmemfsError(errno.ETIMEDOUT, f"does not mount within {MOUNT_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
        run(["stat", "--file-system", self.directory], timeout_s=MOUNT_TIMEOUT_S)

    def _unmount(self) -> None:
        _unmount(self.directory)
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        try:
            daemon.wait(UNMOUNT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            kill_group(daemon)
            raise PmemfsError(
                errno.ETIMEDOUT, f"its daemon did not end within {UNMOUNT_TIMEOUT_S:g} s"
            ) from None

    def _remove(self) -> None:
        """Take everything away, as far as it can be; never raises."""
        if self._daemon is not None and self._daemon.poll() is not None:
            self._daemon = None
        with contextlib.suppress(OSError):
            self._unmount()
        if self._daemon is not None:
            kill_group(self._daemon)
        with contextlib.suppress(OSError):
            _unmount(self.directory)
        if self._made:
            with contextlib.suppress(OSError):
                self.peer.unmake(self._home)
        _remove_files(self._home)

    def complaints(self) -> list[str]:
        """Return the errors that the daemon logged, and whether it is still alive."""
        found = [line for line in self._log_lines() if _ERROR.search(line)]
        if self._daemon is not None and self._daemon.poll() is not None:
            found.append(f"the daemon died with status {self._daemon.returncode}")
        return found

    def _log_lines(self) -> list[str]:
        log = self._home / "log"
        lines = log.read_text(errors="backslashreplace").splitlines() if log.exists() else []
        return [line for line in lines if line.strip()]

    def _log_end(self) -> str:
        return (self._log_lines() or ["it ended without a word"])[-1]


def _remove_files(home: Path) -> None:
    """Remove a peer's files, but never cross into something that is still mounted."""
    if not any(_is_mounted(path) for path in (home / "mnt", home / "store")):
        shutil.rmtree(home, ignore_errors=True)


def _unmount(directory: Path) -> None:
    """Unmount if something is mounted; what stays busy is detached. Raises `CommandError`."""
    for _ in range(_BUSY_TRIES):
        if not _is_mounted(directory):
            return
        try:
            run([*_umount_command(lazy=False), directory], timeout_s=UNMOUNT_TIMEOUT_S)
        except CommandError as error:
            if "busy" not in str(error):
                break
            time.sleep(_BUSY_WAIT_S)
    if _is_mounted(directory):
        run([*_umount_command(lazy=True), directory], timeout_s=UNMOUNT_TIMEOUT_S)


def _umount_command(*, lazy: bool) -> list[str]:
    if os.geteuid() == 0:
        return ["umount", "-l"] if lazy else ["umount"]
    return ["fusermount3", "-u", "-z"] if lazy else ["fusermount3", "-u"]


def _is_mounted(directory: Path) -> bool:
    """Look into the kernel's table: a dead daemon cannot be asked."""
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    wanted = str(directory).replace(" ", "\\040")
    return any(line.split(" ")[4] == wanted for line in table.splitlines())


def probe(peer: Peer, scratch: Path) -> str | None:
    """Return why a peer cannot run here, or None: what is missing, or what mounting said."""
    lacking = peer.missing()
    if lacking:
        return lacking
    try:
        with Site(peer, scratch, PROBE_BYTES) as site:
            path = site.directory / "probe"
            path.write_bytes(b"probe")
            if path.read_bytes() != b"probe":
                return "does not read back what was written"
    except OSError as error:
        return f"does not work here: {error}"
    return None


@contextlib.contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """Make a directory for all sites, and remove it.

    It is left alone, and a `PmemfsError` says so, if something below is still mounted.
    """
    scratch = Path(tempfile.mkdtemp(prefix="pmemfs-peers-", dir=parent))
    try:
        yield scratch
    finally:
        table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        if f" {scratch}/" in table:
            raise PmemfsError(
                errno.EBUSY, f"something is still mounted: see findmnt | grep {scratch}"
            )
        shutil.rmtree(scratch, ignore_errors=True)
