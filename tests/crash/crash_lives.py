"""Lives of an image through several mounts, some of which promise the host's power loss nothing.

A life has a name, ``life:cache-close+disk-abandon``: for each mount its persistence mode, and how
it ends. Recorded as one, it is crashed by power losses of the host. An image that no mount would
trust without a check is passed over; what says "clean", or ``persist=disk``, has to be so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from crash_calls import Run, make, pattern, rename, unlink, write
from crash_case import (
    Case,
    Clock,
    Recording,
    events_of,
    load,
    options_of,
    path_of,
    prepared,
    tree_of,
)
from crash_setups import tree
from crash_tree import Allowed, Tree

from pmemfs.device import Event, MappedDevice, SparseImage
from pmemfs.fs.volume import Volume
from pmemfs.image import Image
from pmemfs.layout.records import Persist

LIFE = "life:"
_NEVER = 1 << 60
_NEW = b"/e/new"
_CASE = Case("life", tree, lambda volume: None, persist=Persist.DISK)
_WORK: tuple[tuple[Run, ...], ...] = (
    (make(_NEW), write(_NEW, 0, pattern(b"N", 5000)), rename(b"/d/f", b"/e/f")),
    (write(b"/e/h", 0, pattern(b"H", 9000)), unlink(b"/e/f")),
)
_ENDS = {"close": Volume.close, "abandon": Volume.abandon}


@dataclass
class _Life:
    """What was stored, the trees it made, and from which event on each may not be lost: never,
    with ``persist=cache``.
    """

    fd: int
    base: SparseImage
    events: list[Event] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    returned: list[int] = field(default_factory=lambda: [0])

    def mount(self, persist: Persist, end: str, steps: tuple[Run, ...]) -> None:
        options = replace(options_of(_CASE, Clock()), persist=persist)

        def use(device_class: type[MappedDevice]) -> None:
            volume = Volume.open(path_of(self.fd), options, device_class=device_class)
            for step in steps:
                step(volume)
                self.trees.append(tree_of(load(self.fd), _CASE))
                events = len(self.events) + len(volume.device.events)  # type: ignore[attr-defined]
                self.returned.append(events if persist == Persist.DISK else _NEVER)
            _ENDS[end](volume)

        self.events += events_of(use)


def record_life(name: str) -> Recording:
    """Record a new image, closed and durable, through its mounts; ``KeyError`` if no such name."""
    with prepared(_CASE) as (fd, volume, _):
        volume.close()
        base = load(fd)
        life = _Life(fd, base, trees=[tree_of(base, _CASE)])
        for number, mount in enumerate(name.removeprefix(LIFE).split("+")):
            persist, _, end = mount.partition("-")
            steps = _WORK[number] if number < len(_WORK) else ()
            life.mount(Persist[persist.upper()], end, steps)
    allowed = Allowed(life.trees, life.returned, durable=False)
    return Recording(_CASE, base, life.events, allowed, refuses=is_not_trusted)


def is_not_trusted(path: str) -> bool:
    """Tell whether a mount on a host that lost power would check the image first."""
    image = Image.open(path, lock="shared")
    try:
        return not image.is_clean and image.control()["persist"] != Persist.DISK
    finally:
        image.close()
