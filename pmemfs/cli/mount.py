"""``pmemfs mount`` and ``pmemfs umount``."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click

from pmemfs import fsck
from pmemfs.cli.bus_errors import ending_at_bus_errors
from pmemfs.errors import DamagedImageError, PmemfsError
from pmemfs.fuse import daemon, mounts
from pmemfs.fuse.mount import FRONTENDS, load_fusepy, serve, validate_fuse_device
from pmemfs.fuse.options import HELP, MountOptions, parse
from pmemfs.image import Image, host_boot_id
from pmemfs.inspect.text import printable
from pmemfs.layout.records import MountState, Persist

CLOSE_TIMEOUT_S = 120.0
_OPTION_LINES = "\n".join("      " + line for line in HELP.splitlines())


@click.command(
    "mount",
    short_help="Mount an image on a directory.",
    help=f"""Mount an image on a directory; return when the file system answers.

The daemon stays in the background and logs to /var/log/pmemfs (root) or
~/.local/state/pmemfs, in a file named like the image that is rotated at 1 MiB; the path is
printed. An image that was not closed is recovered first, and one line says how.

\b
Options after -o:
{_OPTION_LINES}

\b
Examples:
  pmemfs mount disk.img /mnt
  pmemfs mount disk.img /mnt -o idle=5,cache=none
  pmemfs mount disk.img /mnt -o ro
  pmemfs mount -f disk.img /mnt
""",
)
@click.argument("image", type=click.Path(readable=False))
@click.argument("directory", type=click.Path(readable=False))
@click.option("-f", "--foreground", is_flag=True, help="Stay in front; log to stderr.")
@click.option("-o", "option_texts", multiple=True, metavar="OPT,...", help="Options, see above.")
@click.option(
    "--frontend", type=click.Choice(FRONTENDS), default=FRONTENDS[0], show_default=True,
    help="How to talk to the kernel.",
)  # fmt: skip
@click.option("--log", "log_path", type=click.Path(path_type=Path), help="Log file to use.")
@click.option("-q", "--quiet", is_flag=True, help="Print only what recovery did, and errors.")
def mount_command(
    image: str,
    directory: str,
    foreground: bool,
    option_texts: tuple[str, ...],
    frontend: str,
    log_path: Path | None,
    quiet: bool,
) -> None:
    """Mount; the help text is above."""
    image, directory = os.path.realpath(image), os.path.abspath(directory)
    options = parse(list(option_texts), image)
    mounts.validate_mount_point(directory)
    mounts.wait_until_closed(image)
    if not options.read_only:
        validate_unclean(image)
    directory = os.path.realpath(directory)
    validate_fuse_device()
    if frontend == "fusepy":
        options.for_libfuse()
        load_fusepy()
    if foreground:
        daemon.log_to_stderr()
        serve(image, directory, options, frontend, lambda recovery: _tell(image, recovery))
        return
    log_path = log_path.absolute() if log_path else daemon.default_log_path(image)
    recovery = _start(image, directory, options, frontend, log_path)
    _tell(image, recovery)
    if not quiet:
        click.echo(printable(f"{image} is mounted on {directory}; log: {log_path}"))


def _start(image: str, directory: str, options: MountOptions, frontend: str, log_path: Path) -> str:
    recovery = daemon.start(
        lambda ready: serve(image, directory, options, frontend, ready), log_path
    )
    os.statvfs(directory)  # answered by the daemon: from here on the file system is there
    return recovery


def _tell(image: str, recovery: str) -> None:
    if recovery:
        click.echo(printable(f"{image}: {recovery}"))


def validate_unclean(image: str) -> None:
    """Refuse an image that is damaged, if there is a reason to ask.

    One is that the last mount has found damage, another that fsck did not mend all of it. The
    third is that a restart of the host cut a mount off: without ``persist=disk`` the host may
    have written later changes and not their log; with it, recovery is all that is needed.
    Raises `DamagedImageError` with what to run.
    """
    opened = Image.open(image, lock="shared")
    try:
        reason = _reason_to_check(opened)
        if reason is None:
            return
        with ending_at_bus_errors(image, "mount", 1):
            report = fsck.check(opened)
    finally:
        opened.close()
    if not report.is_clean:
        raise DamagedImageError(
            f"{image} {reason}, and {sum(report.counts.values())} things in it do not fit "
            f"together: look with pmemfs fsck {image} -n, mend it with -p, or with -y what -p "
            "leaves; pmemfs mount -o ro reads what can be read"
        )


def _reason_to_check(image: Image) -> str | None:
    control = image.control()
    if control["state"] == MountState.DAMAGED:
        return "was found damaged while it was mounted"
    is_ordered = control["persist"] == Persist.DISK or control["boot_id"] == host_boot_id()
    if image.is_clean or is_ordered:
        return None
    if control["boot_id"] == fsck.NO_HOST:
        return "was not mended to the end"
    return "was mounted when its host went down"


@click.command("umount", short_help="Unmount, and wait until the image is closed.")
@click.argument("directory", type=click.Path(readable=False))
@click.option("-l", "--lazy", is_flag=True, help="Detach now, close when the last user is gone.")
def umount_command(directory: str, lazy: bool) -> None:
    """Unmount a directory; return when the daemon is gone and the image is closed.

    Also removes a dead mount, whose daemon has been killed.

    \b
    Examples:
      pmemfs umount /mnt
      pmemfs umount --lazy /mnt
    """
    mount = mounts.find_mount(directory)
    if mount is None:
        raise PmemfsError(errno.EINVAL, f"no pmemfs is mounted on {directory}")
    holders = mounts.lock_holders(mount.image)
    mounts.unmount(mount.directory, lazy=lazy)
    if not lazy and not mounts.wait_for_exit(holders, CLOSE_TIMEOUT_S):
        raise PmemfsError(
            errno.ETIMEDOUT,
            f"{directory} is unmounted, but the daemon still works on {mount.image}; "
            f"see {daemon.default_log_path(mount.image)}",
        )
