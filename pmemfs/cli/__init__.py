"""The program ``pmemfs``: a group of commands, each loaded when it is called.

So ``inspect`` does not import what ``mount`` needs, and help needs none of them. Every
`PmemfsError` becomes one sentence on stderr and exit status 1; a command with exit statuses of
its own (fsck) catches its errors itself. A stdout that takes no more is such an error, too; when
its reader is gone, the program ends without a word.
"""

from __future__ import annotations

import errno
import importlib
import sys
from typing import Any

import click

from pmemfs import __version__
from pmemfs.cli.stdout import EXIT_CLOSED, StdoutClosedError, forces_colour, prepare_stdout
from pmemfs.errors import PmemfsError

COMMANDS = {
    "mkfs": ("pmemfs.cli.mkfs:mkfs_command", "Make an image."),
    "mount": ("pmemfs.cli.mount:mount_command", "Mount an image on a directory."),
    "umount": ("pmemfs.cli.mount:umount_command", "Unmount, and wait until the image is closed."),
    "fsck": ("pmemfs.cli.fsck:fsck_command", "Check and mend an image that is not mounted."),
    "compact": ("pmemfs.cli.compact:compact_command", "Move pages until free space is whole."),
    "inspect": ("pmemfs.cli.inspect:inspect_command", "Look into an image, mounted or not."),
    "trace": ("pmemfs.cli.trace:trace_command", "Record page accesses of a mount."),
    "bench": ("pmemfs.cli.bench:bench_command", "Measure mounts, descriptor schemes, ageing."),
}

EXIT_INTERRUPTED = 130


class LazyGroup(click.Group):
    """A click group over `COMMANDS`, which turns the project's errors into sentences."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command; raises `PmemfsError` if this installation cannot."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            raise PmemfsError(
                errno.ENOSYS, f"cannot load the command {cmd_name}: {error}"
            ) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the program; help is written before any command runs, and may fail as well."""
        prepare_stdout()
        try:
            return super().main(*args, **extra)
        except PmemfsError as error:
            _tell(error)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and end as a program should."""
        if forces_colour():
            ctx.color = True
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # what fails is met here, and not at exit
            return result
        except PmemfsError as error:
            _tell(error)
            ctx.exit(1)
        except StdoutClosedError:
            ctx.exit(EXIT_CLOSED)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


# Imported late: help and version need none of what the package inspect imports.
def _tell(error: PmemfsError) -> None:
    from pmemfs.inspect.text import printable

    click.echo(f"pmemfs: {printable(str(error))}", err=True)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "--version", prog_name="pmemfs")
def main() -> None:
    """Work with pmemfs, a file system on emulated persistent memory.

    It keeps one 64-byte descriptor for every 2 MiB, and one for every 4 KiB only where somebody
    is working on small files.

    \b
    Examples:
      pmemfs mkfs disk.img --size 64G
      pmemfs mount disk.img /mnt
      pmemfs inspect usage disk.img
      pmemfs umount /mnt
      pmemfs fsck disk.img
    """
