"""``mount.pmemfs``, ``mkfs.pmemfs`` and ``fsck.pmemfs``: the names that mount(8) and its kin call.

``make install`` puts them where these look. They translate the arguments of their callers into
those of ``pmemfs``.
"""

from __future__ import annotations

import sys

import click

from pmemfs.cli import main

_PASSED_BY_MOUNT = click.Path()


@click.command("mount.pmemfs", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("image", type=_PASSED_BY_MOUNT)
@click.argument("directory", type=_PASSED_BY_MOUNT)
@click.option("-o", "options", multiple=True, metavar="OPT,...", help="As pmemfs mount.")
@click.option("-s", "sloppy", is_flag=True, help="Ignored.")
@click.option("-n", "no_mtab", is_flag=True, help="Ignored.")
@click.option("-v", "verbose", is_flag=True, help="Say where the log is.")
@click.option("-f", "fake", is_flag=True, help="Check the arguments only.")
@click.option("-t", "kind", help="Ignored.")
@click.option("-N", "namespace", help="Ignored.")
def mount_helper(
    image: str, directory: str, options: tuple[str, ...], verbose: bool, fake: bool, **_: object
) -> None:
    """What mount(8) calls for the type pmemfs.

    \b
    Examples:
      mount -t pmemfs disk.img /mnt -o idle=5
      disk.img  /mnt  pmemfs  noauto,allow_other  0 2      (a line of /etc/fstab)
    """
    arguments = ["mount", image, directory]
    frontend = None
    for text in options:
        kept = []
        for option in text.split(","):
            if option.startswith("frontend="):
                frontend = option.partition("=")[2]
            else:
                kept.append(option)
        arguments += ["-o", ",".join(kept)]
    if frontend:
        arguments += ["--frontend", frontend]
    arguments += [] if verbose else ["--quiet"]
    if not fake:
        main(arguments, prog_name="pmemfs")


@click.command("mkfs.pmemfs", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("image", type=_PASSED_BY_MOUNT)
@click.argument("kib", type=int, required=False)
@click.option("--size", help="As 64M, 64G, 8T; or give the size in KiB behind the image.")
@click.option("-L", "--label", default="", help="A name for people.")
@click.option("-f", "--force", is_flag=True, help="Overwrite an image that is there.")
@click.option("-V", "-v", "verbose", is_flag=True, help="Ignored.")
def mkfs_helper(
    image: str, kib: int | None, size: str | None, label: str, force: bool, **_: object
) -> None:
    """What mkfs(8) calls for the type pmemfs.

    \b
    Examples:
      mkfs -t pmemfs --size 64G disk.img
      mkfs -t pmemfs disk.img 1048576
    """
    if size is None and kib is None:
        raise click.UsageError("say how large: --size 64G, or the size in KiB behind the image")
    text = size if size is not None else f"{kib}K"
    arguments = ["mkfs", image, "--size", text, "--label", label]
    main([*arguments, *(["--force"] if force else [])], prog_name="pmemfs")


@click.command("fsck.pmemfs", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("image", type=_PASSED_BY_MOUNT)
@click.option("-a", "-p", "preen", is_flag=True, help="Mend what can be mended without any loss.")
@click.option("-y", "yes", is_flag=True, help="Mend all, say yes to all questions.")
@click.option("-n", "no", is_flag=True, help="Check only.")
@click.option("-f", "force", is_flag=True, help="Ignored: every image is checked whole.")
@click.option("-C", "progress_fd", type=int, help="Ignored.")
@click.option("-T", "-V", "-r", "-M", "quiet", is_flag=True, help="Ignored.")
def fsck_helper(image: str, preen: bool, yes: bool, no: bool, **_: object) -> None:
    """What fsck(8) calls for the type pmemfs; exit status as fsck(8).

    \b
    Examples:
      fsck -t pmemfs disk.img
      fsck -t pmemfs disk.img -- -p
    """
    flags = {"-p": preen, "-y": yes, "-n": no}
    main(["fsck", image, *(flag for flag, given in flags.items() if given)], prog_name="pmemfs")


def run_mount() -> None:
    """The console script ``mount.pmemfs``."""
    sys.exit(mount_helper())


def run_mkfs() -> None:
    """The console script ``mkfs.pmemfs``."""
    sys.exit(mkfs_helper())


def run_fsck() -> None:
    """The console script ``fsck.pmemfs``."""
    sys.exit(fsck_helper())
