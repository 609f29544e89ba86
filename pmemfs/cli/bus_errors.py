"""End a command with a sentence, not by SIGBUS alone, when its image is cut short under it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from pmemfs.device.bus_errors import telling_bus_errors
from pmemfs.inspect.text import printable


@contextmanager
def ending_at_bus_errors(image: str, command: str, status: int) -> Iterator[None]:
    """End the process with a status when a page of the mapping cannot be had: none can go on."""

    def end(reason: str) -> None:
        click.echo(f"pmemfs: {printable(reason)}; {command} ends", err=True)
        Console(stderr=True).show_cursor()
        os._exit(status)

    with telling_bus_errors(image, end):
        yield
