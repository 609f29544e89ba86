"""``pmemfs mkfs``: make an image."""

from __future__ import annotations

import os
import uuid

import click

from pmemfs.fs import Volume
from pmemfs.image import Image
from pmemfs.inspect.text import printable
from pmemfs.units import format_size, parse_size


class SizeType(click.ParamType):
    """A size as people write it; the value is in bytes."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse, or fail as a usage error."""
        try:
            return value if isinstance(value, int) else parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("mkfs", short_help="Make an image.")
@click.argument("image", type=click.Path(readable=False))
@click.option(
    "--size", "size_bytes", type=SizeType(), required=True, help="As 64M, 64G, 8T; at least 64M."
)
@click.option("--label", default="", help="A name for people, up to 64 bytes.")
@click.option("--force", is_flag=True, help="Overwrite an image that is there.")
def mkfs_command(image: str, size_bytes: int, label: str, force: bool) -> None:
    """Make an image: a sparse file that grows as it is used, mode 0600.

    The size is rounded down to 2 MiB. A size that the host file system refuses is answered with
    the largest that it allows. The root has a directory lost+found, which fsck uses;
    it takes an extent for metadata.

    \b
    Examples:
      pmemfs mkfs disk.img --size 64G
      pmemfs mkfs disk.img --size 8T --label archive
      pmemfs mkfs disk.img --size 64M --force
    """
    geometry = Volume.format(image, size_bytes, label=label, force=force, lost_found=True)
    made = Image.open(image, lock="none")
    identity = uuid.UUID(bytes=made.superblock["uuid"])
    made.close()
    click.echo(
        f"{printable(image)}: {format_size(geometry.device_bytes)} in {geometry.n_extents} extents "
        f"of 2 MiB, {geometry.fixed_extents} of them fixed; UUID {identity}"
    )
    host = os.statvfs(os.path.dirname(os.path.abspath(image)))
    room = host.f_bavail * host.f_frsize
    if room < geometry.device_bytes:
        click.echo(
            f"warning: the host has {format_size(room)} free, less than the image promises; "
            "writes will fail with ENOSPC when the host is full",
            err=True,
        )
