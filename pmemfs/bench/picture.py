"""Pictures as files: whether one can be written is known before the work that it shows.

matplotlib is an extra of the package, and is imported only here, when it is needed.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
from pathlib import Path
from typing import Any

from pmemfs.errors import PmemfsError

_DPI = 120


def load_matplotlib() -> Any:
    """Import matplotlib for files; raises `PmemfsError` with what to install."""
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise PmemfsError(
            errno.ENOSYS,
            f"matplotlib is missing ({error}): pip install 'pmemfs[plot]'",
        ) from error


def validate_picture(path: Path) -> None:
    """Raise `PmemfsError` if no picture can be written there, before the work is done."""
    load_matplotlib()
    kinds = importlib.import_module("matplotlib.backend_bases").FigureCanvasBase.filetypes
    if path.suffix[1:].lower() not in kinds:
        named = (
            f"'{path.suffix}' is no kind of picture" if path.suffix else "its name has no suffix"
        )
        raise PmemfsError(errno.EINVAL, f"cannot write {path}: {named}; let it end with .png")
    validate_writable(path)


def validate_writable(path: Path) -> None:
    """Raise `PmemfsError` if a file cannot be written; one that is there stays as it is.

    Only opening it tells: whoever may write to a directory may still find it read-only.
    """
    target = os.path.realpath(path)
    is_new = not os.path.exists(target)
    try:
        if is_new and not os.path.isdir(os.path.dirname(target)):
            text = f"there is no directory {path.absolute().parent}"
            raise FileNotFoundError(errno.ENOENT, text)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666))
        if is_new:
            os.unlink(target)
    except OSError as error:
        raise _cannot_write(path, error) from error


def save_picture(figure: Any, path: Path, **how: Any) -> None:
    """Write a figure, of the kind that its suffix says, and close it; raises `PmemfsError`.

    What was there before stays until all is drawn.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], dpi=_DPI, **how)
    load_matplotlib().close(figure)
    try:
        path.write_bytes(drawn.getbuffer())
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> PmemfsError:
    return PmemfsError(error.errno or errno.EIO, f"cannot write {path}: {error.strerror}")
