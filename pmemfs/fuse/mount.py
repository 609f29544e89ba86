"""Mount an image through a front end: open the volume, serve it, close it."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from pmemfs.device.bus_errors import telling_bus_errors
from pmemfs.errors import PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fuse import registry
from pmemfs.fuse.mounts import device_of, sync_directory, unmount
from pmemfs.fuse.native_mount import mount_native
from pmemfs.fuse.options import MountOptions
from pmemfs.journal import Replay
from pmemfs.reclaim import Policy, Reclaimer

log = logging.getLogger("pmemfs")

FRONTENDS = ("native", "fusepy") if sys.platform.startswith("linux") else ("fusepy", "native")


def load_fusepy() -> Any:
    """Import the fusepy front end; raises `PmemfsError` that says what to install."""
    try:
        from pmemfs.fuse.fusepy_frontend import FusepyFrontend
    except ImportError as error:
        raise PmemfsError(
            errno.ENOSYS, f"the Python package fusepy is missing ({error}): pip install fusepy"
        ) from error
    except OSError as error:
        raise PmemfsError(
            errno.ENOSYS,
            f"libfuse 2 is missing ({error}): install it (Debian: apt-get install libfuse2)",
        ) from error
    return FusepyFrontend


def validate_fuse_device() -> None:
    """Raise `PmemfsError` unless this process can talk to the kernel's FUSE."""
    if not os.path.exists("/dev/fuse"):
        raise PmemfsError(
            errno.ENODEV, "there is no /dev/fuse: load the kernel's module (modprobe fuse)"
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise PmemfsError(
            errno.EACCES, "permission denied: /dev/fuse is closed to you; mount as root, or open it"
        )


def describe_recovery(volume: Volume) -> str | None:
    """Return one line on what was done about an image that was not in order, or None."""
    parts = [f"passed over: {text}" for text in volume.image.passed_over]
    if not volume.was_clean:
        parts += ["was not closed", _describe_replay(volume.replay)]
        if len(volume.orphans):
            parts.append(f"{len(volume.orphans)} orphans to free")
    return "; ".join(parts) or None


def _describe_replay(replay: Replay | None) -> str:
    if replay is None:
        return "nothing to replay"
    return (
        f"replayed transaction {replay.sequence} ({replay.stored_bytes} bytes in {replay.entries} "
        f"{'place' if replay.entries == 1 else 'places'})"
    )


def serve(
    image: str,
    directory: str,
    options: MountOptions,
    frontend: str,
    on_ready: Callable[[str], None],
) -> None:
    """Serve an image on a directory until it is unmounted; it is closed on return.

    ``on_ready`` gets one line on what recovery did, or "", once the kernel has answered. When the
    image is cut short, or its host fails, the process ends and the log says why: the descriptor of
    /dev/fuse is closed with it, so callers get ENOTCONN.
    """
    run = {"native": _run_native, "fusepy": _run_fusepy}[frontend]
    with telling_bus_errors(image, _log_bus_error):
        volume = _open(image, options, frontend)
        recovery = describe_recovery(volume) or ""
        device: str | None = None

        def ready() -> None:
            nonlocal device
            device = device_of(directory)
            if device is not None:
                registry.note(device, options.kind, options.fsname, image)
            log.info("%s mounted on %s%s", image, directory, f": {recovery}" if recovery else "")
            on_ready(recovery)

        try:
            run(volume, directory, options, ready)
        finally:
            if device is not None:
                registry.forget(device)
            volume.close()
            log.info("%s closed", image)


def _log_bus_error(reason: str) -> None:
    log.critical("%s; the daemon ends", reason)
    faulthandler.dump_traceback()


def _open(image: str, options: MountOptions, frontend: str) -> Volume:
    return Volume.open(
        image,
        Options(
            read_only=options.read_only,
            atime="relatime" if options.relatime else "noatime",
            threshold_pages=options.threshold_pages,
            acls=frontend == "native",
            persist=options.persist,
            errors=options.errors,
        ),
    )


def _reclaimer(volume: Volume, options: MountOptions) -> Reclaimer | None:
    if options.read_only:
        return None
    return Reclaimer(volume, Policy(options.idle_s, options.most_descriptors))


def _run_fusepy(
    volume: Volume, directory: str, options: MountOptions, ready: Callable[[], None]
) -> None:
    load_fusepy()(
        volume,
        directory,
        reclaimer=_reclaimer(volume, options),
        options=options.for_libfuse(),
        xattrs=options.xattrs,
        on_ready=ready,
    )


def _run_native(
    volume: Volume, directory: str, options: MountOptions, ready: Callable[[], None]
) -> None:
    from pmemfs.fuse.native_frontend import NativeFrontend

    fd = mount_native(directory, options)
    try:
        server = NativeFrontend(
            volume,
            fd,
            reclaimer=_reclaimer(volume, options),
            cache=options.cache or "writeback",
            checked=options.default_permissions,
            xattrs=options.xattrs,
            owner=(options.uid, options.gid),
            on_ready=ready,
            unmount=lambda: unmount_for_signal(directory),
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: server.request_unmount())
        server.run()
    except BaseException:
        with contextlib.suppress(PmemfsError):
            unmount(directory, lazy=True)
        raise
    finally:
        os.close(fd)


def unmount_for_signal(directory: str) -> bool:
    """Unmount because a signal asks for it; what is in use is synced and only detached.

    Returns False then.
    """
    try:
        unmount(directory)
        return True
    except PmemfsError as error:
        log.info("%s; it is detached", error)
    try:
        sync_directory(directory)
        unmount(directory, lazy=True)
    except OSError as error:
        log.error("%s", error)
    return False
