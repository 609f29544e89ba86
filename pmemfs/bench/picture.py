"""Pictures as files: whether one can be written is known before the work that it shows.

matplotlib is an extra of the package, and is imported only here, when it is needed.
"""

from __future__ import annotations

import errno
import importlib
import io
from pathlib import Path
from typing import Any

from pmemfs.bench.writable import validate_writable, writing
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


def save_picture(figure: Any, path: Path, **how: Any) -> None:
    """Write a figure, of the kind that its suffix says, and close it; raises `PmemfsError`.

    What was there before stays until all is drawn.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], dpi=_DPI, **how)
    load_matplotlib().close(figure)
    with writing(path):
        path.write_bytes(drawn.getbuffer())
