"""``pmemfs mount`` and ``umount``: each refusal is a sentence, and nothing is left behind."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mount_run import (
    MIB,
    NEEDS_MOUNT,
    NEEDS_ROOT,
    PROGRAM,
    Mounted,
    assert_clean,
    mounted,
    run,
    run_here,
    wait_until,
)
from sentences import assert_sentence, without_capabilities

from pmemfs.fs import Volume
from pmemfs.fuse import mounts
from pmemfs.fuse.mount import FRONTENDS
from pmemfs.image import Image
from pmemfs.layout.geometry import CONTROL_OFFSET, INODE_BYTES, ROOT_INO, inode_offset
from pmemfs.layout.records import CONTROL

pytestmark = NEEDS_MOUNT


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def image(folder: Path) -> Iterator[Path]:
    path = folder / "disk.img"
    Volume.format(path, 64 * MIB)
    (folder / "mnt").mkdir()
    yield path
    if mounts.find_mount(str(folder / "mnt")) is not None:
        mounts.unmount(str(folder / "mnt"), lazy=True)


def mount(image: Path, *more: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    options.setdefault("check", False)
    log = image.parent / "mount.log"
    return run("mount", image, image.parent / "mnt", "--log", log, *more, **options)


# -- in use ----------------------------------------------------------------------------------


def test_a_mounted_image_is_left_alone(own_mount: Mounted, folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (own_mount.directory / "f").write_bytes(b"data")
    for arguments in (
        ["mount", own_mount.image, other],
        ["mount", "-o", "ro", own_mount.image, other],
        ["mount", "-f", own_mount.image, other],
        ["mkfs", own_mount.image, "--size", "64M", "--force"],
    ):
        assert_sentence(run(*arguments, check=False), "in use", "umount")
    assert_sentence(run_here("fsck", own_mount.image, check=False), "in use", status=8)
    assert_sentence(run_here("mount", own_mount.image, own_mount.directory, check=False), "already")
    assert (own_mount.directory / "f").read_bytes() == b"data"
    assert run_here("inspect", "usage", own_mount.image).returncode == 0


def test_a_directory_in_use_is_seen_through_a_link(own_mount: Mounted, folder: Path) -> None:
    os.symlink(own_mount.directory, folder / "link")
    Volume.format(folder / "second.img", 64 * MIB)
    done = run_here("mount", folder / "second.img", folder / "link", check=False)
    assert_sentence(done, "already")
    run_here("umount", folder / "link")
    assert not os.path.ismount(own_mount.directory)


def test_two_read_only_mounts_of_one_image(image: Path, folder: Path) -> None:
    (folder / "second").mkdir()
    mount(image, "-o", "ro", check=True)
    try:
        run("mount", "-o", "ro", image, folder / "second", "--log", folder / "log2")
        run_here("umount", folder / "second")
        assert_clean(image)
    finally:
        run_here("umount", folder / "mnt")


# -- wrong images ----------------------------------------------------------------------------


def _random(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(MIB) * 65)


def _cut(path: Path) -> None:
    os.truncate(path, 63 * MIB)


def _cut_a_little(path: Path) -> None:
    Volume.format(path, 128 * MIB, force=True)
    os.truncate(path, 127 * MIB)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _zeros(path: Path) -> None:
    os.truncate(path, 0)
    os.truncate(path, 64 * MIB)


WRONG = {
    "random": (_random, "no usable pmemfs image"),
    "zeros": (_zeros, "no usable pmemfs image"),
    "empty": (lambda p: os.truncate(p, 0), "no pmemfs image"),
    "cut": (_cut, "no pmemfs image"),
    "cut_a_little": (_cut_a_little, "cut short"),
    "directory": (_directory, "not a"),
    "missing": (lambda p: p.unlink(), "mkfs"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_images(kind: str, image: Path) -> None:
    spoil, part = WRONG[kind]
    spoil(image)
    assert_sentence(run_here("mount", image, image.parent / "mnt", check=False), str(image), part)
    assert_sentence(mount(image, "-o", "ro"), str(image), part)
    assert_sentence(run_here("fsck", image, check=False), str(image), part, status=8)
    assert_sentence(run_here("inspect", "usage", image, check=False), str(image), part)
    assert not os.path.ismount(image.parent / "mnt")


@NEEDS_ROOT
def test_permission_denied(image: Path) -> None:
    os.chown(image, 1, 1)
    assert_sentence(mount(image, **without_capabilities()), "permission denied", str(image))
    image.chmod(0o444)
    assert_sentence(mount(image, **without_capabilities()), "not yours to write", str(image))


# -- wrong directories, options, machines ----------------------------------------------------


def test_wrong_directories(image: Path, folder: Path) -> None:
    (folder / "file").touch()
    done = run_here("mount", image, folder / "none", check=False)
    assert_sentence(done, f"mkdir {folder}/none")
    assert_sentence(run_here("mount", image, folder / "file", check=False), "not a directory")
    assert_sentence(
        run_here("mount", image, folder / "file/x", check=False), str(folder / "file/x")
    )
    os.symlink("loop", folder / "loop")
    assert_sentence(run_here("mount", image, folder / "loop", check=False), str(folder / "loop"))


def test_a_dead_mount_in_the_way(own_mount: Mounted) -> None:
    (own_mount.directory / "f").write_bytes(b"data")
    own_mount.kill()
    done = run_here("mount", own_mount.image, own_mount.directory, check=False)
    assert_sentence(done, "dead mount", f"pmemfs umount {own_mount.directory}")
    run_here("umount", own_mount.directory)
    assert "was not closed" in own_mount.mount()
    assert (own_mount.directory / "f").read_bytes() == b"data"


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("nonsense", "'nonsense'"),
        ("idle=never", "idle"),
        ("idle=-1", "idle"),
        ("idle=nan", "idle"),
        ("idle", "idle"),
        ("promote=0", "promote"),
        ("cache=maybe", "cache"),
        ("persist=tape", "persist is one of cache, disk"),
        ("attr_timeout=x", "attr_timeout"),
        ("idle=inf", "idle"),
        ("idle=1e400", "idle"),
        ("promote=101", "promote"),
        ("promote=nan", "promote"),
        ("attr_timeout=-1", "attr_timeout"),
        ("descriptors=few", "descriptors"),
        ("descriptors=0", "descriptors wants a whole number from 512"),
        ("descriptors=511", "descriptors wants a whole number from 512"),
        ("descriptors=1000.7", "descriptors wants a whole number from 512"),
        ("descriptors=-512", "descriptors"),
        ("descriptors=nan", "descriptors"),
        ("descriptors=1e400", "descriptors"),
        (f"descriptors={'9' * 5000}", "descriptors"),
        ("descriptors", "descriptors"),
        ("uid=1.5", "uid wants a whole number"),
        ("gid=4294967295", "gid wants a whole number"),
        ("ro=no", "ro takes no value"),
        ("nosuid=0", "nosuid takes no value"),
        ("noatime,ro,big_writes", "'big_writes'"),
        ("subtype=", "subtype"),
        ("fsname", "fsname"),
    ],
)
def test_wrong_options(option: str, part: str, image: Path) -> None:
    assert_sentence(run_here("mount", image, image.parent / "mnt", "-o", option, check=False), part)


def test_all_options_together(image: Path) -> None:
    options = "rw,idle=2.5,relatime,promote=25,cache=none,noxattr,attr_timeout=0,allow_other"
    mount(
        image,
        "-o",
        f"{options},descriptors=1024",
        "-o",
        "default_permissions,noatime,nosuid,nodev,noexec",
        check=True,
    )
    try:
        (line,) = [x for x in Path("/proc/mounts").read_text().splitlines() if str(image) in x]
        for flag in (
            "allow_other",
            "default_permissions",
            "nosuid",
            "nodev",
            "noexec",
            "fuse.pmemfs",
        ):
            assert flag in line
    finally:
        run_here("umount", image.parent / "mnt")


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_a_mount_under_another_name(frontend: str, image: Path) -> None:
    directory = image.parent / "mnt"
    options = "fsname=some,subtype=thing"
    mount(image, "-o", options, "--frontend", frontend, check=True)
    try:
        assert f"some {directory} fuse.thing " in Path("/proc/mounts").read_text()
        busy = run_here("mount", image, directory, check=False)
        assert_sentence(busy, "already")
    finally:
        run_here("umount", directory)
    assert not mounts.lock_holders(str(image))
    run_here("fsck", image)


def test_a_missing_libfuse(image: Path) -> None:
    done = mount(
        image, "--frontend", "fusepy", env={**os.environ, "FUSE_LIBRARY_PATH": "/nonexistent"}
    )
    assert_sentence(done, "libfuse", "apt-get install")


def test_a_log_that_cannot_be_written(image: Path, folder: Path) -> None:
    (folder / "file").touch()
    done = run_here("mount", image, folder / "mnt", "--log", folder / "file/log", check=False)
    assert_sentence(done, "file/log", "--log")
    done = run_here("mount", image, folder / "mnt", "--log", folder, check=False)
    assert_sentence(done, str(folder), "--log")


@pytest.mark.parametrize(
    "name", ["a b", "a,b", "a\\b", "a\nb", "ä€", "a'\"b", "#x", "%s", "-x", "a\\,b"]
)
def test_any_name_of_an_image_and_a_directory(name: str, folder: Path) -> None:
    image, directory = folder / f"{name}.img", folder / name
    run_here("mkfs", image, "--size", "64M")
    directory.mkdir()
    run("mount", image, directory, "--log", folder / "log")
    try:
        (directory / "f").write_bytes(b"data")
        found = mounts.find_mount(str(directory))
        assert found is not None
        assert (found.directory, found.image) == (str(directory), str(image))
    finally:
        run_here("umount", directory)
    assert_clean(image)


def test_lost_and_found_is_a_directory_as_any_other(folder: Path) -> None:
    image, directory = folder / "disk.img", folder / "mnt"
    run_here("mkfs", image, "--size", "64M")
    directory.mkdir()
    run("mount", image, directory, "--log", folder / "log")
    try:
        assert os.listdir(directory) == ["lost+found"]
        assert stat.S_IMODE(os.stat(directory / "lost+found").st_mode) == 0o700
        os.rmdir(directory / "lost+found")
        assert os.listdir(directory) == []
    finally:
        run_here("umount", directory)
    assert_clean(image)


def test_a_relative_path(image: Path, folder: Path) -> None:
    run("mount", "disk.img", "mnt", "--log", "log", cwd=folder)
    (folder / "mnt/f").touch()
    run("umount", "mnt", cwd=folder)
    assert_clean(image)


# -- umount ----------------------------------------------------------------------------------


def test_umount_of_what_is_not_mounted(folder: Path) -> None:
    for name in ("none", "."):
        assert_sentence(run_here("umount", folder / name, check=False), "no pmemfs is mounted")
    assert_sentence(run_here("umount", "/proc", check=False), "no pmemfs is mounted")


def test_umount_while_busy(own_mount: Mounted) -> None:
    with open(own_mount.directory / "f", "wb") as file:
        done = run_here("umount", own_mount.directory, check=False)
        assert_sentence(done, "busy", "--lazy")
        file.write(b"still works")
    assert (own_mount.directory / "f").read_bytes() == b"still works"


def test_lazy_umount(own_mount: Mounted) -> None:
    with open(own_mount.directory / "f", "wb") as file:
        run_here("umount", "--lazy", own_mount.directory)
        assert os.listdir(own_mount.directory) == []
        file.write(b"to the end")
    assert wait_until(lambda: not mounts.lock_holders(str(own_mount.image)))
    own_mount.mount()
    assert (own_mount.directory / "f").read_bytes() == b"to the end"


def test_the_image_is_free_when_umount_returns(image: Path) -> None:
    for turn in range(3):
        mount(image, check=True)
        (image.parent / "mnt" / f"f{turn}").write_bytes(bytes(5 * MIB))
        run("umount", image.parent / "mnt")
        opened = Image.open(image, lock="exclusive")
        assert opened.is_clean
        opened.close()
    assert_clean(image)


# -- the foreground --------------------------------------------------------------------------


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
def test_the_foreground_ends_cleanly(
    number: signal.Signals | None, frontend: str, image: Path
) -> None:
    directory = image.parent / "mnt"
    command = [*PROGRAM, "mount", "-f", "--frontend", frontend, str(image), str(directory)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as daemon:
        try:
            assert wait_until(lambda: os.path.ismount(directory))
            (directory / "f").write_bytes(b"data")
            if number is None:
                begin = time.monotonic()
                run("umount", directory)  # nobody has reaped the daemon yet
                assert time.monotonic() - begin < 30
            else:
                daemon.send_signal(number)
            out, err = daemon.communicate(timeout=30)
        finally:
            daemon.kill()
    assert daemon.returncode == 0, err
    assert "Traceback" not in err
    assert "mounted on" in err
    assert out == ""
    assert not os.path.ismount(directory)
    opened = Image.open(image, lock="shared")
    assert opened.is_clean
    opened.close()
    assert_clean(image)


# -- not closed ------------------------------------------------------------------------------


@pytest.fixture
def unclean(folder: Path) -> Iterator[Path]:
    """An image whose daemon was killed, with a file in it."""
    with mounted(folder, size_bytes=64 * MIB) as one:
        (one.directory / "f").write_bytes(b"data" * 1000)
        (one.directory / "d").mkdir()
        one.kill()
        run_here("umount", one.directory)
        yield one.image


def change(image: Path, offset: int, data: bytes) -> None:
    with open(image, "r+b") as file:
        file.seek(offset)
        file.write(data)


def from_another_boot(image: Path) -> None:
    change(image, CONTROL_OFFSET + CONTROL.offset_of["boot_id"], b"another boot.id!")


def damage_the_root(image: Path) -> None:
    opened = Image.open(image, lock="none")
    offset = inode_offset(opened.geometry.first_inode_extent, ROOT_INO)
    opened.close()
    change(image, offset + INODE_BYTES // 2, b"\xff\xff")


def test_an_image_of_another_boot_is_checked_and_mounted(unclean: Path) -> None:
    from_another_boot(unclean)
    assert "was not closed" in mount(unclean, check=True).stdout
    assert (unclean.parent / "mnt/f").read_bytes() == b"data" * 1000


def test_a_damaged_image_of_another_boot_is_refused(unclean: Path) -> None:
    from_another_boot(unclean)
    (victim,) = _inode_offsets(unclean, b"f")
    change(unclean, victim + 40, b"\xff\xff")
    before = digest(unclean)
    assert_sentence(mount(unclean), "host went down", f"pmemfs fsck {unclean}", "-o ro")
    assert digest(unclean) == before
    mount(unclean, "-o", "ro", check=True)  # as the sentence says
    assert (unclean.parent / "mnt/d").is_dir()
    run_here("umount", unclean.parent / "mnt")
    assert digest(unclean) == before
    assert run_here("fsck", unclean, check=False).returncode == 4
    Volume.format(unclean, 64 * MIB, force=True)  # so that the fixture finds a clean one


def test_an_image_of_persist_disk_from_another_boot_is_not_checked(folder: Path) -> None:
    with mounted(folder, "persist=disk", size_bytes=64 * MIB) as one:
        for name in ("f", "g"):
            (one.directory / name).write_bytes(b"data" * 1000)
        one.kill()
        run_here("umount", one.directory)
        from_another_boot(one.image)
        (victim,) = _inode_offsets(one.image, b"g")
        change(one.image, victim + 40, b"\xff\xff")  # a check would find this, and refuse
        assert "was not closed" in one.mount("persist=disk")
        assert (one.directory / "f").read_bytes() == b"data" * 1000
        one.umount()
        one.log.unlink()
        Volume.format(one.image, 64 * MIB, force=True)  # so that the fixture finds a clean one


def _inode_offsets(image: Path, *names: bytes) -> list[int]:
    from pmemfs.fs import Options

    with Volume.open(image, Options(read_only=True)) as volume:
        return [volume.lookup(ROOT_INO, name).offset for name in names]


# -- read-only -------------------------------------------------------------------------------


def _read_everything(directory: Path) -> None:
    assert (directory / "f").read_bytes() == b"data" * 1000
    assert sorted(os.listdir(directory)) == ["d", "f"]
    os.statvfs(directory)
    for attempt in (
        lambda: (directory / "new").touch(),
        lambda: (directory / "f").write_bytes(b"x"),
        lambda: os.utime(directory / "f"),
        lambda: os.setxattr(directory / "f", "user.a", b"x"),
        lambda: os.unlink(directory / "f"),
    ):
        with pytest.raises(OSError, match="Read-only"):
            attempt()


@pytest.mark.parametrize("options", ["ro", "ro,relatime,idle=1"])
def test_read_only_writes_nothing(options: str, unclean: Path) -> None:
    for turn in range(2):
        before = digest(unclean), os.stat(unclean).st_blocks, os.stat(unclean).st_mtime_ns
        said = mount(unclean, "-o", options, check=True).stdout
        assert ("was not closed" in said) == (turn == 0)
        _read_everything(unclean.parent / "mnt")
        run_here("umount", unclean.parent / "mnt")
        assert (digest(unclean), os.stat(unclean).st_blocks, os.stat(unclean).st_mtime_ns) == before
        mount(unclean, check=True)  # now recover it, and look at a clean one
        run_here("umount", unclean.parent / "mnt")


@NEEDS_ROOT
def test_read_only_needs_no_right_to_write(unclean: Path) -> None:
    unclean.chmod(0o400)
    mount(unclean, "-o", "ro", check=True, **without_capabilities_but_mounting())
    _read_everything(unclean.parent / "mnt")
    run_here("umount", unclean.parent / "mnt")


def without_capabilities_but_mounting() -> dict[str, Any]:
    sys_admin = 21
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def drop() -> None:
        for number in set(range(41)) - {sys_admin}:
            libc.prctl(24, number, 0, 0, 0)

    return {"preexec_fn": drop}


# -- the log ---------------------------------------------------------------------------------


def test_the_log_is_found_and_tells_what_happened(image: Path, folder: Path) -> None:
    done = run("mount", image, folder / "mnt", env={**os.environ, "XDG_STATE_HOME": str(folder)})
    path = Path(done.stdout.rstrip().rpartition("log: ")[2])
    try:
        run_here("umount", folder / "mnt")
        text = path.read_text()
        assert f"{image} mounted on {folder / 'mnt'}" in text
        assert f"{image} closed" in text
        assert path.stat().st_mode & 0o777 == 0o600
        assert "disk.img" in path.name
    finally:
        path.unlink()


def test_the_log_rotates(folder: Path) -> None:
    script = """
import logging, sys
from pathlib import Path
from pmemfs.fuse import daemon
daemon.make_log_folder(Path(sys.argv[1]))
daemon.log_to_file(Path(sys.argv[1]))
for i in range(60000):
    logging.getLogger("pmemfs").info("line %d %s", i, "x" * 60)
print("printed")
"""
    log = folder / "deep/log"
    subprocess.run([sys.executable, "-c", script, str(log)], check=True)
    sizes = [path.stat().st_size for path in log.parent.iterdir()]
    assert len(sizes) == 4
    assert max(sizes) <= 1 << 20
    assert "line 59999" in log.read_text()


# -- an ordinary user ------------------------------------------------------------------------

AS_NOBODY = """
import os, sys
import pmemfs.cli, pmemfs.cli.mkfs, pmemfs.cli.mount, pmemfs.fuse.fusepy_frontend
import encodings.idna, encodings.latin_1, encodings.ascii, logging.handlers, fcntl, mmap, locale
import subprocess, select, selectors
import pmemfs.inspect.text, pmemfs.fs, pmemfs.fsck, click._termui_impl, rich
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.argv = ["pmemfs", *sys.argv[1:]]
pmemfs.cli.main()
"""


@NEEDS_ROOT
@pytest.mark.skipif(shutil.which("fusermount") is None, reason="fusermount is not installed")
def test_an_ordinary_user_mounts_and_unmounts(folder: Path) -> None:
    os.chown(folder, 65534, 65534)
    (folder / "mnt").mkdir()
    os.chown(folder / "mnt", 65534, 65534)

    def theirs(*arguments: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", AS_NOBODY, *map(str, arguments)], capture_output=True,
            text=True, check=False, timeout=60, env={**os.environ, "XDG_STATE_HOME": str(folder)},
        )  # fmt: skip

    done = theirs("mkfs", folder / "disk.img", "--size", "64M")
    assert done.returncode == 0, done.stderr
    done = theirs("mount", "--frontend", "fusepy", folder / "disk.img", folder / "mnt")
    if os.stat("/dev/fuse").st_mode & 0o006 != 0o006:
        assert_sentence(done, "permission denied", "/dev/fuse")
        return
    assert done.returncode == 0, done.stderr
    assert str(folder / "pmemfs") in done.stdout
    assert os.path.ismount(folder / "mnt") or mounts.find_mount(str(folder / "mnt"))
    done = theirs("umount", folder / "mnt")
    assert done.returncode == 0, done.stderr
    assert mounts.find_mount(str(folder / "mnt")) is None
    assert_clean(folder / "disk.img")
