"""Who may do what with an image file: made for its owner alone, looked into by who may read it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pmemfs.cli import main
from pmemfs.cli.inspect import inspect_command
from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.fuse import daemon

NOBODY, READERS = 65534, 4242
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


# what is needed is imported first: the interpreter may lie where only root can read
PROGRAM = """
import difflib, encodings.ascii, json, numpy.ma, os, sys
import pmemfs.cli.fsck, pmemfs.cli.inspect
from click.testing import CliRunner
from pmemfs.cli import main
group, commands = json.loads(sys.argv[1])
os.setgroups([]); os.setgid(group); os.setuid(65534)
results = [CliRunner().invoke(main, command, prog_name="pmemfs") for command in commands]
print(json.dumps([(r.exit_code, r.stdout, r.stderr) for r in results]))
"""


def as_nobody(*commands: list[object], group: int = NOBODY) -> list[tuple[int, str, str]]:
    """Run commands as another user; return exit status, stdout and stderr of each."""
    work = json.dumps([group, [list(map(str, command)) for command in commands]])
    command = [sys.executable, "-c", PROGRAM, work]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [tuple(result) for result in json.loads(done.stdout)]


@pytest.fixture
def image(image_dir: Path) -> Path:
    image_dir.chmod(0o755)
    path = image_dir / "disk.img"
    Volume.format(path, 64 << 20)
    with Volume.open(path) as volume:
        file = volume.create(ROOT_INO, b"file", 0o100600)
        volume.write(file.ino, 0, b"x" * 9000)
    return path


@pytest.mark.parametrize("umask", [0, 0o22, 0o77])
def test_images_and_logs_are_their_owners_alone(image_dir: Path, umask: int) -> None:
    image, log = image_dir / "disk.img", image_dir / "log" / "disk.log"
    before = os.umask(umask)
    try:
        result = CliRunner().invoke(main, ["mkfs", str(image), "--size", "64M"])
        daemon.make_log_folder(log)
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(os.stat(image).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(log).st_mode) == 0o600


def test_a_log_that_is_rotated_stays_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        handler = daemon._RotatingFile(tmp_path / "disk.log", maxBytes=100, backupCount=2)
        for _ in range(9):
            handler.emit(logging.makeLogRecord({"msg": "x" * 60}))
        handler.close()
    finally:
        os.umask(before)
    files = list(tmp_path.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


ARGUMENTS = {"number": "4", "pfn": "2049", "path": "/file"}


def every_view(image: Path) -> list[list[object]]:
    """Return the arguments of each view that the program has."""
    return [
        ["inspect", name, "--json", image, *map(ARGUMENTS.__getitem__, arguments_of(view))]
        for name, view in inspect_command.commands.items()
    ]


def arguments_of(view: click.Command) -> list[str]:
    arguments = [p.name or "" for p in view.params if isinstance(p, click.Argument)]
    return [name for name in arguments if name != "image"]


@NEEDS_ROOT
@pytest.mark.parametrize("mode", [0o400, 0o440])
@pytest.mark.parametrize("mounted", [False, True])
def test_the_inspector_needs_only_read_access(image: Path, mode: int, mounted: bool) -> None:
    """Every view as a user who may read the image, but not write it, also beside a daemon."""
    owner, group = (NOBODY, 0) if mode == 0o400 else (0, READERS)
    volume = Volume.open(image) if mounted else None
    try:
        os.chown(image, owner, group)
        image.chmod(mode)
        before = os.stat(image)
        for status, output, errors in as_nobody(*every_view(image), group=READERS):
            assert status == 0, errors
            assert json.loads(output)["live"] == mounted
        after = os.stat(image)
        assert (before.st_mtime_ns, before.st_blocks) == (after.st_mtime_ns, after.st_blocks)
        if not mounted:
            assert as_nobody(["fsck", "-n", image], group=READERS)[0][0] == 0
    finally:
        if volume is not None:
            volume.close()


@NEEDS_ROOT
def test_who_may_not_read_an_image_is_told_so(image: Path) -> None:
    for status, _, errors in as_nobody(["inspect", "usage", image], ["fsck", "-n", image]):
        assert status in (1, 8)
        assert "permission denied" in errors
    image.chmod(0o444)
    ((status, _, errors),) = as_nobody(["fsck", "-y", image])
    assert status == 8
    assert "not yours to write" in errors


@NEEDS_ROOT
def test_a_reader_cannot_keep_the_image_locked_by_looking(image: Path) -> None:
    """The probe for a daemon holds the lock for an instant; an open inspector holds none."""
    image.chmod(0o444)
    fd = os.open(image, os.O_RDONLY)
    try:
        assert as_nobody(["inspect", "usage", image])[0][0] == 0
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise AssertionError(errno.errorcode[error.errno or 0]) from error
    finally:
        os.close(fd)
