"""Help, versions and wrong usage: each command explains itself, and says how to be used."""

from __future__ import annotations

import pytest
from mount_run import run_here

from pmemfs import __version__
from pmemfs.cli import COMMANDS

VIEWS = ("usage", "super", "extents", "extent", "page", "file", "free", "journal")


@pytest.mark.parametrize("command", [*COMMANDS, *(f"inspect {view}" for view in VIEWS)])
def test_help_shows_examples(command: str) -> None:
    text = run_here(*command.split(), "--help").stdout
    assert "Usage:" in text
    assert "Example" in text
    assert f"pmemfs {command.split()[0]}" in text


def test_the_program_itself() -> None:
    assert __version__ in run_here("--version").stdout
    text = run_here("--help").stdout
    assert "Examples:" in text
    for command in COMMANDS:
        assert command in text


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["nothing"], 2),
        (["mkfs"], 2),
        (["mkfs", "x"], 2),
        (["mkfs", "x", "--size", "big"], 2),
        (["mkfs", "x", "--size", "-64M"], 2),
        (["mount", "x"], 2),
        (["mount", "x", "y", "--frontend", "none"], 2),
        (["umount"], 2),
        (["fsck"], 16),
        (["inspect", "nothing", "x"], 2),
    ],
)
def test_wrong_usage(arguments: list[str], status: int) -> None:
    done = run_here(*arguments, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert "Usage:" in done.stderr + done.stdout
