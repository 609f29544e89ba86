"""Run programs: each in a session of its own, ended by its own id, never left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pmemfs.errors import PmemfsError

Command = Sequence[str | Path]

TIMEOUT_S = 600.0
_KILL_WAIT_S = 10.0
_TOLD_LINES = 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CommandError(PmemfsError):
    """A program failed or took too long; the message has the end of what it said."""

    def __init__(self, command: Command, what: str, said: str = "") -> None:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        end = ": " + "; ".join(lines[-_TOLD_LINES:]) if lines else ""
        super().__init__(errno.EIO, f"{Path(command[0]).name} {what}{end}")


def run(command: Command, *, timeout_s: float = TIMEOUT_S, cwd: Path | None = None) -> str:
    """Run a program to its end and return its stdout; raises `CommandError`.

    Whatever interrupts this ends the program and its children.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill_group(process)
        raise CommandError(command, f"did not end within {timeout_s:g} s") from None
    except BaseException:
        kill_group(process)
        raise
    if process.returncode:
        raise CommandError(command, f"ended with status {process.returncode}", err or out)
    return out


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a program that leads its own session, with all its children, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_WAIT_S)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@contextlib.contextmanager
def interruptible(deals_with_it: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into one KeyboardInterrupt; later ones are ignored.

    So what cleans up is itself not interrupted. A SIGINT that ``deals_with_it`` is not turned
    into anything.
    """

    def stop(number: int, frame: object) -> None:
        if number == signal.SIGINT and deals_with_it():
            return
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
