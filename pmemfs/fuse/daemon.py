"""Run a front end in the background, and tell whoever started it how that went.

`start` forks; the child calls `serve` with a function that reports "ready", and the parent
returns when it has, or raises what the child reported. What the daemon prints or logs goes to a
rotating file; a crash of the interpreter leaves its traceback there.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import logging
import logging.handlers
import os
import sys
import traceback
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

from pmemfs.dead_mounts import validate_alive
from pmemfs.errors import PmemfsError
from pmemfs.inspect.text import printable

LOG_BYTES = 1 << 20
LOG_FILES = 3
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


class _Formatter(logging.Formatter):
    """Writes what a terminal would obey escaped, so that no name can forge a line of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(record.message)
        return super().formatMessage(record)


class _RotatingFile(logging.handlers.RotatingFileHandler):
    """A rotating log whose files are their owner's alone, those made later too."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self.baseFilename, flags, 0o600)
        return open(fd, "a", encoding=self.encoding, errors=self.errors)


def default_log_path(image: str) -> Path:
    """Return where the daemon of an image logs: one file for each image path."""
    if os.geteuid() == 0:
        folder = Path("/var/log/pmemfs")
    else:
        state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        folder = Path(state).expanduser() / "pmemfs"
    path = os.path.realpath(image)
    digest = hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()
    name = os.path.basename(path).encode("ascii", "replace").decode().replace("?", "_")
    return folder / f"{name}-{digest}.log"


def log_to_stderr() -> None:
    """Log to stderr, for a front end in the foreground."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    faulthandler.enable()


def log_to_file(path: Path) -> None:
    """Log to a rotating file, and send stdout and stderr there too."""
    handler = _RotatingFile(
        path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="backslashreplace"
    )
    handler.setFormatter(_Formatter(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(null)
    os.close(fd)
    faulthandler.enable()


def make_log_folder(path: Path) -> None:
    """Make the folder of a log file; raises `PmemfsError` with what to do."""
    validate_alive(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise PmemfsError(
            error.errno or 5,
            f"cannot write the log {path}: {error.strerror}; choose one with --log",
        ) from error


def start(serve: Callable[[Callable[[str], None]], None], log_path: Path) -> str:
    """Run ``serve(report_ready)`` in a daemon process; return the message it reported.

    Raises `PmemfsError` with the child's message if it failed before it was ready.
    """
    make_log_folder(log_path)
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return _await_report(read_end, pid, log_path)
    os.close(read_end)
    os.setsid()
    status = 1
    try:
        log_to_file(log_path)
        status = _run(serve, write_end)
    finally:
        os._exit(status)  # the parent's clean-up is not ours


def _run(serve: Callable[[Callable[[str], None]], None], write_end: int) -> int:
    def report(message: dict[str, object]) -> None:
        os.write(write_end, json.dumps(message).encode() + b"\n")

    try:
        serve(lambda text: report({"ready": text}))
    except PmemfsError as error:
        logging.getLogger("pmemfs").error("%s", error)
        report({"error": str(error), "errno": error.errno})
        return 1
    except BaseException as error:
        logging.getLogger("pmemfs").critical("%s", traceback.format_exc())
        report({"error": f"{type(error).__name__}: {error}", "errno": 5})
        return 1
    logging.shutdown()
    return 0


def _await_report(read_end: int, pid: int, log_path: Path) -> str:
    with os.fdopen(read_end, "rb") as pipe:
        line = pipe.readline()
    if not line:
        _, status = os.waitpid(pid, 0)
        raise PmemfsError(
            5,
            f"the daemon ended with status {os.waitstatus_to_exitcode(status)}; see {log_path}",
        )
    message = json.loads(line)
    if "error" in message:
        os.waitpid(pid, 0)
        text = message["error"]
        if "libfuse could not" in text:
            text += f" ({log_path})"
        raise PmemfsError(message["errno"], text)
    return str(message["ready"])
