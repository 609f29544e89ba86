"""``pmemfs trace record`` and ``pmemfs trace show``: page accesses of a live mount, as a file."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import click

from pmemfs.bench.descriptors.accesses import summary
from pmemfs.bench.process import interruptible
from pmemfs.bench.writable import validate_writable, writing
from pmemfs.cli.inspect_text import format_time
from pmemfs.cli.numbers import NumberRange
from pmemfs.cli.table import facts, heading, line, table
from pmemfs.errors import PmemfsError
from pmemfs.fuse import mounts
from pmemfs.fuse.tracing import Recording, RecordingLostError
from pmemfs.inspect.reader import Reader
from pmemfs.pages.trace import TRACE_RECORD, read_trace, write_header
from pmemfs.units import format_size

_PAUSE_S = 0.1
_GRACE_S = 10.0


@click.group("trace", short_help="Record page accesses of a mount.")
def trace_command() -> None:
    """Record which pages a mounted pmemfs accesses, and look at such a trace.

    \b
    Examples:
      pmemfs trace record /mnt -o untar.trace -- tar -C /mnt -xf linux.tar
      pmemfs trace show untar.trace
      pmemfs bench descriptors --trace untar.trace
    """


@trace_command.command("record", short_help="Record until a command ends, or Ctrl-C.")
@click.argument("where", metavar="DIR|IMAGE")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
    metavar="FILE", help="The trace; overwritten once recording has begun.",
)  # fmt: skip
@click.option("--seconds", type=NumberRange(min=0), help="End after this time, COMMAND as well.")
@click.pass_context
def record_command(
    context: click.Context,
    where: str,
    command: tuple[str, ...],
    output: Path,
    seconds: float | None,
) -> None:
    """Record every access of the file system to its pages, while COMMAND runs, or until Ctrl-C.

    Recorded is what reaches the device: what the kernel answers from its page cache is not seen,
    and what it writes back is seen when it does. Mount with cache=none, or use direct I/O, to
    see all. A record of 16 bytes says when, which pages, whether whole extent or small, read or
    written; not what, and not by whom.

    Needs to be run by the user who mounted it. Ends with the exit status of COMMAND, or with 0 if
    the time is over first. If the daemon ends, what was recorded until then is kept.

    \b
    Examples:
      pmemfs trace record /mnt -o untar.trace -- tar -C /mnt -xf linux.tar
      pmemfs trace record disk.img -o minute.trace --seconds 60
    """
    directory = mounts.find_directory(where)
    mount = mounts.find_mount(directory)
    assert mount is not None
    validate_writable(output)
    _require_elsewhere(output, directory)
    with Reader(mount.image) as reader:
        n_extents = reader.geometry.n_extents
    recording, lost, status = Recording(directory), None, 1
    started = time.monotonic()
    with (
        interruptible(), recording.started(), _Command(command) as process,
        writing(output), open(output, "wb") as file,
    ):  # fmt: skip
        file.write(write_header(n_extents))
        try:
            status = _record(recording, file, process, seconds)
        except RecordingLostError as error:
            lost = error
        took_s = time.monotonic() - started
        size = file.tell()
        file.seek(0)
        file.write(write_header(n_extents, recording.dropped))
    count = (size - len(write_header(1))) // TRACE_RECORD.size_bytes
    click.echo(f"{output}: {count} accesses in {took_s:.1f} s, {format_size(size)}", err=True)
    if recording.dropped:
        click.echo(f"warning: {recording.dropped} accesses were too many and are lost", err=True)
    if lost is not None:
        raise lost
    context.exit(status)


def _require_elsewhere(output: Path, directory: str) -> None:
    """Refuse a file on the mount that is recorded: writing it would be recorded, too."""
    if os.stat(output.absolute().parent).st_dev == os.stat(directory).st_dev:
        raise PmemfsError(
            errno.EINVAL, f"{output} lies on the mount that is recorded: put it elsewhere"
        )


class _Command:
    """The command that is recorded, from its start to its end; or none, until Ctrl-C."""

    def __init__(self, words: tuple[str, ...]) -> None:
        """Start it; raises `PmemfsError` if that cannot be done."""
        self._process: subprocess.Popen[bytes] | None = None
        self.exit_status = 0
        if not words:
            return
        stdin = sys.stdin.fileno() if sys.stdin.isatty() else None
        try:
            self._process = subprocess.Popen(words, stdin=stdin)
        except OSError as error:
            code = error.errno or errno.EIO
            raise PmemfsError(code, f"cannot run {words[0]}: {error.strerror}") from error

    def __enter__(self) -> _Command:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    @property
    def is_none(self) -> bool:
        """Whether there is none."""
        return self._process is None

    def has_ended(self) -> bool:
        """Pause a moment; tell whether it has ended meanwhile."""
        if self.is_none:
            time.sleep(_PAUSE_S)
            return False
        return self._wait(_PAUSE_S)

    def end(self) -> bool:
        """End it and wait; False if it had ended before."""
        if self._process is None or self._wait(0):
            return False
        self._process.terminate()
        if not self._wait(_GRACE_S):
            self._process.kill()
            self._wait(None)
        return True

    def _wait(self, timeout_s: float | None) -> bool:
        assert self._process is not None
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self.exit_status = status if status >= 0 else 128 - status
        return True


def _record(recording: Recording, file: BinaryIO, command: _Command, seconds: float | None) -> int:
    """Fetch records until the command ends, the time is over or Ctrl-C; return the exit status."""
    deadline = time.monotonic() + seconds if seconds is not None else math.inf
    is_interrupted = False
    if command.is_none:
        click.echo("recording; Ctrl-C ends it", err=True)
    try:
        while not command.has_ended() and time.monotonic() < deadline:
            _fetch(recording, file)
    except KeyboardInterrupt:
        is_interrupted = True
    is_over = command.end() and not is_interrupted
    if is_over:
        click.echo(f"the command was ended: {seconds:g} s are over", err=True)
    _fetch(recording, file)
    return 0 if is_over else command.exit_status


def _fetch(recording: Recording, file: BinaryIO) -> None:
    for records in recording.fetch():
        file.write(records)
    file.flush()


# -- show ------------------------------------------------------------------------------------


@trace_command.command("show", short_help="Show what is in a trace.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Raw integers, as JSON.")
def show_command(file: Path, as_json: bool) -> None:
    """Show how many accesses a trace has, of which kind, and which extents are hottest.

    \b
    Examples:
      pmemfs trace show untar.trace
      pmemfs trace show untar.trace --json
    """
    header, records = read_trace(file)
    data = summary(header["n_extents"], header["dropped"], records)
    if as_json:
        click.echo(json.dumps({"file": str(file)} | data, indent=2))
    else:
        _render(file, data)


def _render(file: Path, data: dict[str, Any]) -> None:
    heading(f"{file}: {data['records']:,} accesses of a device of {_size(data)}")
    facts(
        [
            ("begins", format_time(data["first_second"])),
            ("lasts", f"{data['seconds']:,} s"),
            ("lost", f"{data['dropped']:,}"),
        ]
    )
    line("")
    table(
        ["what", ">accesses", ">pages", ">in extents"],
        [
            (name, f"{part['records']:,}", f"{part['pages']:,}", part.get("extents"))
            for name, part in ((n, data[n]) for n in ("reads", "writes", "frees", "small", "whole"))
        ],
    )
    if data["hottest"]:
        heading("Hottest extents")
        table(
            [">extent", ">accesses", ">pages"],
            [(h["extent"], f"{h['records']:,}", f"{h['pages']:,}") for h in data["hottest"]],
        )


def _size(data: dict[str, Any]) -> str:
    return format_size(data["device_bytes"])
