"""``pmemfs fsck`` as people meet it: on a terminal, by fsck(8), after a mount that found damage."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from mount_run import MIB, NEEDS_MOUNT, PROGRAM, run, run_here
from sentences import assert_sentence

from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.image import Image
from pmemfs.layout.geometry import CONTROL_OFFSET, ROOT_INO
from pmemfs.layout.records import CONTROL, INODE, MountState, seal

INTERRUPT = b"\x03"
TIMEOUT_S = 60
QUESTION = re.compile(rb"\[y/N\]: ")


@pytest.fixture
def image(folder: Path) -> Path:
    """An image with two files."""
    path = folder / "disk.img"
    Volume.format(path, 64 * MIB, lost_found=True)
    with Volume.open(path) as volume:
        for name in (b"kept", b"bad"):
            ino = volume.create(ROOT_INO, name, stat.S_IFREG | 0o644).ino
            volume.write(ino, 0, name * 3000)
    (folder / "mnt").mkdir()
    return path


def patch(image: Path, name: bytes, *, sealed: bool, **fields: int) -> int:
    """Change fields of the inode of a file, with a right checksum or not; return where it is."""
    with Volume.open(image) as volume:
        offset = volume.lookup(ROOT_INO, name).offset
    with image.open("r+b") as file:
        file.seek(offset)
        before = INODE.unpack(file.read(INODE.size_bytes))
        values = before | fields
        file.seek(offset)
        file.write(seal(INODE, **values) if sealed else INODE.pack(**values))
    return offset


def state_of(image: Path) -> int:
    opened = Image.open(image, lock="none")
    try:
        return int(opened.control()["state"])
    finally:
        opened.close()


# -- on a terminal -------------------------------------------------------------------------------


def answer(answers: list[bytes], *arguments: str | Path) -> tuple[int, bytes]:
    """Run the program on a terminal of its own and answer its questions; return what it said."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests may ignore it
        os.execv(PROGRAM[0], [*PROGRAM, *map(str, arguments)])
    said, asked = b"", 0
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1)[0]:
                # lost, if input() was not yet waiting; sent too late, it would end Python's own end
                if answers[:asked][-1:] == [INTERRUPT] and b"interrupted" not in said:
                    os.write(terminal, INTERRUPT)
                continue
            part = os.read(terminal, 1 << 16)
            said += part
            while asked < len(QUESTION.findall(said)):
                os.write(terminal, answers[asked])
                asked += 1
    except OSError:  # the other end is gone
        pass
    finally:
        os.close(terminal)  # hangs up, so that it ends
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert asked == len(answers), said
    return status, said


def test_it_asks_before_it_loses_anything(image: Path) -> None:
    patch(image, b"bad", sealed=False, uid=7)
    before = image.read_bytes()
    status, said = answer([b"n\n"], "fsck", image)
    assert status == 4
    assert b"this may lose something. Do it? [y/N]" in said
    assert image.read_bytes() == before
    status, said = answer([b"y\n", b"n\n"], "fsck", image)
    assert (status, image.read_bytes()) == (4, before)
    assert b"nothing was written" in said
    status, said = answer([b"y\n", b"y\n"], "fsck", image)
    assert status == 1
    assert b"mended, now clean" in said
    assert answer([], "fsck", image)[0] == 0


def test_what_is_safe_is_asked_about_once(image: Path) -> None:
    patch(image, b"bad", sealed=True, pages=9)
    patch(image, b"kept", sealed=True, pages=9)
    status, said = answer([b"y\n"], "fsck", image)
    assert status == 1
    assert b"Make these 2 repairs? [y/N]" in said


@pytest.mark.parametrize(("flag", "status"), [("-n", 4), ("-p", 1), ("-y", 1)])
def test_flags_ask_nothing(image: Path, flag: str, status: int) -> None:
    patch(image, b"bad", sealed=True, pages=9)
    before = image.read_bytes()
    assert answer([], "fsck", flag, image)[0] == status
    assert (image.read_bytes() == before) == (flag == "-n")


def test_an_interrupted_question_changes_nothing(image: Path) -> None:
    patch(image, b"bad", sealed=False, uid=7)
    before = image.read_bytes()
    status, said = answer([INTERRUPT], "fsck", image)
    assert status == 32
    assert b"Traceback" not in said
    assert image.read_bytes() == before


# -- by fsck(8) ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("fsck") is None, reason="fsck(8) is not installed")
def test_fsck_8_finds_the_helper(image: Path, folder: Path) -> None:
    helper = folder / "fsck.pmemfs"
    code = "from pmemfs.cli.helpers import run_fsck; run_fsck()"
    helper.write_text(f"#!{PROGRAM[0]}\n{code}\n")
    helper.chmod(0o755)
    patch(image, b"bad", sealed=True, pages=9)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    statuses = []
    for flags in (["-n"], ["-a", "-C"], ["-a", "-C"]):
        command = ["fsck", "-t", "pmemfs", *flags, image]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        statuses.append(done.returncode)
        assert str(image) in done.stdout, done
    assert statuses == [4, 1, 0]


# -- after a mount that found damage -------------------------------------------------------------


def find_damage(image: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage an image while it is open, let that be found, and close it."""
    with Volume.open(image) as volume:
        offset = volume.lookup(ROOT_INO, b"bad").offset + INODE.offset_of["uid"]
    with Volume.open(image) as volume:
        fd = os.open(image, os.O_RDWR)
        os.pwrite(fd, b"\x07\x07", offset)
        os.close(fd)
        with pytest.raises(PmemfsError):
            volume.lookup(ROOT_INO, b"bad")
    assert state_of(image) == MountState.DAMAGED
    caplog.clear()


@NEEDS_MOUNT[0]
@NEEDS_MOUNT[1]
def test_a_mount_waits_for_fsck(
    image: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused until all is mended, each time with the reason and what to run."""
    directory, log = folder / "mnt", folder / "log"

    def mount() -> subprocess.CompletedProcess[str]:
        return run("mount", image, directory, "--log", log, check=False)

    find_damage(image, caplog)
    assert_sentence(mount(), "found damaged while it was mounted", f"pmemfs fsck {image}", "-y")
    report = json.loads(run_here("fsck", "-n", "--json", image, check=False).stdout)
    assert (report["closed"], report["damaged_while_mounted"]) == (False, True)
    done = run_here("fsck", "-p", image, check=False)
    assert done.returncode == 4
    assert done.stdout.startswith(f"{image}: was found damaged while mounted")
    assert_sentence(mount(), "was not mended to the end", f"pmemfs fsck {image}")
    assert run_here("fsck", "-y", image, check=False).returncode == 1
    assert state_of(image) == MountState.CLEAN
    assert mount().returncode == 0
    try:
        assert (directory / "bad").read_bytes() == b"bad" * 3000
        (directory / "new").write_bytes(b"works")
    finally:
        run_here("umount", directory)
    assert run_here("fsck", "-n", image).returncode == 0


def test_damage_that_is_gone_is_cleared_by_preening(image: Path) -> None:
    """As after a bit that flipped in memory, and not on the disk."""
    with image.open("r+b") as file:
        file.seek(CONTROL_OFFSET + CONTROL.offset_of["state"])
        file.write(MountState.DAMAGED.to_bytes(8, "little"))
    assert run_here("fsck", "-p", image, check=False).returncode == 1
    assert state_of(image) == MountState.CLEAN
