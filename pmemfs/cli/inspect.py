"""``pmemfs inspect VIEW IMAGE [ARG] [--json]``: arguments in, a view of `pmemfs.inspect` out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from pmemfs import inspect
from pmemfs.cli import inspect_maps, inspect_text
from pmemfs.inspect.collect import View
from pmemfs.inspect.extents import SORT_KEYS
from pmemfs.inspect.heads import KIND_NAMES

Command = Callable[..., Any]


class Number(click.ParamType[int]):
    """A whole number, decimal or as 0x... ."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; fails with a sentence."""
        try:
            return value if isinstance(value, int) else int(value, 0)
        except ValueError:
            self.fail(f"'{value}' is not a number: write 1234 or 0x4d2", param, ctx)


@click.group("inspect", short_help="Look into an image, mounted or not.")
def inspect_command() -> None:
    """Look into an image, mounted or not; never writes.

    While the image is mounted the live descriptors are shown. With no daemon alive, no page
    descriptor counts: they are never trusted after a restart.

    \b
    Examples:
      pmemfs inspect usage disk.img
      pmemfs inspect extents disk.img --kind small --sort wear
      pmemfs inspect file disk.img /home/notes.txt
      pmemfs inspect page disk.img 0x2a01 --json
    """


def _view(command: Command) -> Command:
    image = click.argument("image", type=click.Path(readable=False))
    as_json = click.option("--json", "as_json", is_flag=True, help="Raw integers, as JSON.")
    return image(as_json(command))


def _show(image: str, as_json: bool, view: View, render: Callable[[dict[str, Any]], None]) -> None:
    with inspect.Reader(image) as reader:
        data = inspect.collect(reader, view)
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        render(data)
        inspect_text.render_state(data)


@inspect_command.command("usage")
@_view
def usage_command(image: str, as_json: bool) -> None:
    """Show what files, extents and descriptors take.

    Files counts all inodes in use but the root, directories among them. Free counts what is
    returned, too. Page descriptors are counted by touched ones and by whole tables.

    \b
    Examples:
      pmemfs inspect usage disk.img
      pmemfs inspect usage disk.img --json | jq .split_extents
    """
    _show(image, as_json, inspect.usage, inspect_text.render_usage)


@inspect_command.command("super")
@_view
def super_command(image: str, as_json: bool) -> None:
    """Show the superblock, the control page, and where things are.

    \b
    Example:
      pmemfs inspect super disk.img
    """
    _show(image, as_json, inspect.superblock, inspect_text.render_super)


@inspect_command.command("extents")
@_view
@click.option("--all", "all_rows", is_flag=True, help="One row for each extent ever used.")
@click.option("--sort", type=click.Choice(SORT_KEYS), default="extent", help="Largest first.")
@click.option("--kind", type=click.Choice(list(KIND_NAMES.values())), help="Only this kind.")
def extents_command(image: str, as_json: bool, all_rows: bool, sort: str, kind: str | None) -> None:
    """Show the extents, as ranges of equal ones.

    \b
    Examples:
      pmemfs inspect extents disk.img
      pmemfs inspect extents disk.img --all --sort wear | head
      pmemfs inspect extents disk.img --kind small --json
    """
    view = partial(inspect.extents, all_rows=all_rows, sort=sort, kind=kind)
    _show(image, as_json, view, inspect_text.render_extents)


@inspect_command.command("extent", short_help="Show one extent, page by page.")
@_view
@click.argument("number", metavar="N", type=Number())
def extent_command(image: str, as_json: bool, number: int) -> None:
    """Show one extent: its head, and page by page its split table or owner page.

    \b
    Example:
      pmemfs inspect extent disk.img 4
    """
    view = partial(inspect.extent, number=number)
    _show(image, as_json, view, inspect_maps.render_extent)


@inspect_command.command("page", short_help="Look a page up, and show how.")
@_view
@click.argument("pfn", type=Number())
def page_command(image: str, as_json: bool, pfn: int) -> None:
    """Show what the two-level lookup finds for a page, and how it got there.

    \b
    Examples:
      pmemfs inspect page disk.img 2049
      pmemfs inspect page disk.img 0x801
    """
    _show(image, as_json, partial(inspect.page, pfn=pfn), inspect_maps.render_page)


@inspect_command.command("file")
@_view
@click.argument("path")
def file_command(image: str, as_json: bool, path: str) -> None:
    """Show where a file lies, piece by piece of 2 MiB.

    PATH is a path inside the image, or '<17>' for inode 17. Symbolic links are not followed.

    \b
    Examples:
      pmemfs inspect file disk.img /home/notes.txt
      pmemfs inspect file disk.img '<17>' --json
    """
    view = partial(inspect.file, path=os.fsencode(path))
    _show(image, as_json, view, inspect_maps.render_file)


@inspect_command.command("free", short_help="Show free space by size and alignment.")
@_view
def free_command(image: str, as_json: bool) -> None:
    """Show the free space by size of its runs and by 2 MiB alignment.

    \b
    Example:
      pmemfs inspect free disk.img
    """
    _show(image, as_json, inspect.free, inspect_text.render_free)


@inspect_command.command("journal", short_help="Show what is committed, and both slots.")
@_view
def journal_command(image: str, as_json: bool) -> None:
    """Show what is committed, whether a mount would replay it, and both journal slots.

    \b
    Example:
      pmemfs inspect journal disk.img
    """
    _show(image, as_json, inspect.journal, inspect_text.render_journal)
