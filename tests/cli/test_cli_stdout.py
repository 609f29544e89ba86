"""Commands whose stdout is full, closed, or a pipe that nobody reads any more."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from mount_run import MIB, PROGRAM

from pmemfs.fs import Volume

NO_ROOM = "pmemfs: cannot write the output: No space left on device\n"


@pytest.fixture
def image(folder: Path) -> Path:
    path = folder / "disk.img"
    Volume.format(path, 64 * MIB)
    return path


COMMANDS = [
    ("inspect", "wear"),
    ("inspect", "usage"),
    ("inspect", "map", "--json"),
    ("inspect", "top"),
    ("compact",),
    ("fsck", "-n"),
]


def run_on(stdout: int, *words: str | Path) -> tuple[int, str]:
    command = [*PROGRAM, *map(str, words)]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_full_device_is_a_sentence(image: Path, words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        status = 8 if words[0] == "fsck" else 1
        assert run_on(full.fileno(), *words, image) == (status, NO_ROOM)


def test_help_on_a_full_device_is_a_sentence() -> None:
    with open("/dev/full", "wb") as full:
        assert run_on(full.fileno(), "--help") == (1, NO_ROOM)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_closed_pipe_is_quiet(image: Path, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert run_on(writing, *words, image) == (141, "")
    finally:
        os.close(writing)


def test_nothing_is_said_when_python_ends(image: Path) -> None:
    """What is buffered still is not written again, which Python would complain about."""
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    command = [*PROGRAM, "inspect", "usage", str(image)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, NO_ROOM)


def test_stderr_full_as_well(image: Path) -> None:
    with open("/dev/full", "wb") as full:
        command = [*PROGRAM, "inspect", "usage", str(image)]
        done = subprocess.run(command, stdout=full, stderr=full, check=False)
    assert done.returncode == 1


def test_a_descriptor_that_cannot_be_written(image: Path) -> None:
    with open("/dev/null", "rb") as read_only:
        status, text = run_on(read_only.fileno(), "inspect", "usage", image)
    assert (status, text) == (1, "pmemfs: cannot write the output: Bad file descriptor\n")


def test_no_stdout_at_all(image: Path) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, "inspect", "wear", str(image)]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
