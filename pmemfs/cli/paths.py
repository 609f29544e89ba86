"""Directories as arguments: of one on a dead mount it is said what is wrong, and what to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pmemfs.dead_mounts import validate_alive


class DirectoryType(click.Path):
    """A directory that is there."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; raises `PmemfsError` for a dead mount, which click takes for nothing."""
        validate_alive(value)
        return super().convert(value, param, ctx)
