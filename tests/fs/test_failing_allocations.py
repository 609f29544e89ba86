"""The n-th allocation of every operation fails, for all n.

Each operation is done once to count what it allocates. Then, on a fresh copy of the same volume
for each n, the n-th allocation is refused: alone, and with all that come behind it (in the tight
one only so). The operation
must then either fail whole with ENOSPC, or succeed without what was refused; a write may end
after a prefix, which it returns. Nothing leaks: memory agrees with the device, free pages are the
same, fsck is clean; and the same operation succeeds when the refusals end.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from failing_allocations import CountedDevice, count_allocations
from full_device import Snapshot, content, fill, furnish, use_up_open_extents
from volumes import REGULAR, ManualClock, VolumeBed, idle, validate_image, validate_volume

from pmemfs.errors import PmemfsError
from pmemfs.fs import Options, Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.layout.geometry import EXTENT_BYTES, PAGE_BYTES
from pmemfs.units import MIB, TIB

PUNCH = 3
ZERO_RANGE = 16
EXCHANGE = 2
ACL = bytes.fromhex(
    "02000000 01000700ffffffff 02000500e8030000 04000500ffffffff10000500ffffffff 20000500ffffffff"
)

Operation = Callable[[Volume, dict[str, int]], object]


def write(name: str, offset: int, length: int) -> Operation:
    """A write that must all be done; what it can do without is tried by itself below."""

    def operation(volume: Volume, inos: dict[str, int]) -> int:
        return volume.write(inos[name], offset, b"w" * length)

    operation.length = length  # type: ignore[attr-defined]
    return operation


def copy(name: str, to: str, offset: int, length: int) -> Operation:
    """A copy that may end early as a write may."""

    def operation(volume: Volume, inos: dict[str, int]) -> int:
        return volume.copy_range(inos[name], 0, inos[to], offset, length)

    operation.length = length  # type: ignore[attr-defined]
    return operation


def link_a_nameless(volume: Volume, inos: dict[str, int]) -> None:
    ino = volume.tmpfile(ROOT_INO, 0o600).ino
    try:
        volume.link(ino, inos["empty"], b"new")
    finally:
        volume.release(ino)


OPERATIONS: dict[str, Operation] = {
    "create": lambda v, i: v.create(ROOT_INO, b"new", REGULAR),
    "create in an empty directory": lambda v, i: v.create(i["empty"], b"new", REGULAR),
    "create in a full leaf": lambda v, i: v.create(i["dir"], b"m" * 250, REGULAR),
    "create with an inherited list": lambda v, i: v.create(i["listed"], b"new", REGULAR),
    "mkdir": lambda v, i: v.mkdir(i["empty"], b"new", 0o755),
    "mkdir with an inherited list": lambda v, i: v.mkdir(i["listed"], b"new", 0o755),
    "mknod": lambda v, i: v.create(i["empty"], b"new", 0o010644),
    "tmpfile": lambda v, i: v.release(v.tmpfile(ROOT_INO, 0o600).ino),
    "link without a name": link_a_nameless,
    "symlink": lambda v, i: v.symlink(i["empty"], b"new", b"t" * 136),
    "long symlink": lambda v, i: v.symlink(i["empty"], b"new", b"t" * 137),
    "link": lambda v, i: v.link(i["small"], i["empty"], b"new"),
    "link in a full leaf": lambda v, i: v.link(i["small"], i["dir"], b"m" * 250),
    "rename": lambda v, i: v.rename(ROOT_INO, b"small", i["empty"], b"new"),
    "rename in a full leaf": lambda v, i: v.rename(ROOT_INO, b"small", i["dir"], b"m" * 250),
    "rename over": lambda v, i: v.rename(ROOT_INO, b"small", ROOT_INO, b"tree"),
    "exchange": lambda v, i: v.rename(ROOT_INO, b"small", ROOT_INO, b"dir", EXCHANGE),
    "unlink": lambda v, i: v.unlink(ROOT_INO, b"tree"),
    "unlink whole": lambda v, i: v.unlink(ROOT_INO, b"whole"),
    "rmdir": lambda v, i: v.rmdir(ROOT_INO, b"empty"),
    "first xattr": lambda v, i: v.setxattr(i["small"], b"user.a", b"x"),
    "next xattr": lambda v, i: v.setxattr(i["tree"], b"user.b", b"x"),
    "replace xattr": lambda v, i: v.setxattr(i["tree"], b"user.a", b"y"),
    "remove one of two xattrs": lambda v, i: v.removexattr(i["victim"], b"user.b"),
    "remove the xattr": lambda v, i: v.removexattr(i["tree"], b"user.a"),
    "access list": lambda v, i: v.setxattr(i["small"], b"system.posix_acl_access", ACL),
    "chmod with a list": lambda v, i: v.setattr(i["listed file"], mode=0o700),
    "chown with capabilities": lambda v, i: v.setattr(i["capable"], uid=5),
    "drop privileges": lambda v, i: v.drop_privileges(i["capable"]),
    "chmod": lambda v, i: v.setattr(i["small"], mode=0o600),
    "flags": lambda v, i: v.set_inode_flags(i["small"], 0x20),
    "write into the page": write("small", 100, 50),
    "append in the page": write("small", 10_000, 50),
    "append a page": write("small", 10_000, 5000),
    "append across a piece": write("small", 2 * MIB - 5000, 10_000),
    "fill a hole of a tree": write("tree", PAGE_BYTES, 1),
    "write far": write("small", TIB, 1),
    "write far in a tree": write("tree", 15 * TIB, 1),
    "from a list to a tree": write("scattered", 200 * PAGE_BYTES, 1),
    "promotion": write("nearly", 255 * PAGE_BYTES, 1),
    "large write": write("small", 2 * MIB, 5 * MIB + 1),
    "unaligned large write": write("whole", 5 * MIB - 3, 3 * MIB),
    "copy a range": copy("whole", "small", 100_000, 3 * MIB),
    "copy into holes": copy("nearly", "tree", 0, 60 * PAGE_BYTES),
    "overwrite whole": write("whole", 0, 4 * MIB),
    "grow": lambda v, i: v.setattr(i["small"], size=TIB),
    "grow in the page": lambda v, i: v.setattr(i["small"], size=10_100),
    "cut small": lambda v, i: v.setattr(i["small"], size=5000),
    "cut whole": lambda v, i: v.setattr(i["whole"], size=3 * MIB),
    "cut tree": lambda v, i: v.setattr(i["tree"], size=20 * PAGE_BYTES),
    "fallocate": lambda v, i: v.fallocate(i["small"], 0, 0, 3 * MIB),
    "fallocate holes": lambda v, i: v.fallocate(i["tree"], 0, 0, 80 * PAGE_BYTES),
    "fallocate behind the end": lambda v, i: v.fallocate(i["small"], 1, 12_000, 50_000),
    "zero a range": lambda v, i: v.fallocate(i["whole"], ZERO_RANGE, 5, 3 * MIB),
    "punch small": lambda v, i: v.fallocate(i["small"], PUNCH, 4096, 4096),
    "punch whole": lambda v, i: v.fallocate(i["whole"], PUNCH, 5, 4 * MIB),
    "punch a full list": lambda v, i: v.fallocate(i["scattered"], PUNCH, 4096, 4096),
    "punch tree": lambda v, i: v.fallocate(i["tree"], PUNCH, 0, 30 * PAGE_BYTES),
    "read": lambda v, i: len(b"".join(v.read(i["tree"], 0, MIB))),
    "fsync": lambda v, i: v.fsync(i["small"]),
    "idle work": lambda v, i: idle(v),
}

# what frees, moves or only reads: refusals must not even be noticed
NEED_NOTHING = (
    "rename over", "exchange", "unlink", "unlink whole", "rmdir", "remove the xattr", "chmod",
    "flags", "write into the page", "append in the page", "overwrite whole", "grow",
    "grow in the page", "cut small", "cut whole", "cut tree", "punch small", "punch whole",
    "punch a full list", "punch tree", "read", "fsync", "idle work",
)  # fmt: skip


def furnish_more(volume: Volume) -> None:
    """Add to `furnish` what the operations here need."""
    listed = volume.mkdir(ROOT_INO, b"listed", 0o755).ino
    volume.setxattr(listed, b"system.posix_acl_default", ACL)
    ino = volume.create(listed, b"file", REGULAR).ino
    volume.link(ino, ROOT_INO, b"listed file")
    capable = volume.create(ROOT_INO, b"capable", REGULAR).ino
    volume.setxattr(capable, b"security.capability", b"\1\0\0\2" + bytes(16))
    volume.setxattr(capable, b"user.b", b"kept")
    victim = volume.lookup(ROOT_INO, b"victim").ino
    volume.setxattr(victim, b"user.a", b"1")
    volume.setxattr(victim, b"user.b", b"2")
    nearly = volume.create(ROOT_INO, b"nearly", REGULAR).ino
    volume.write(nearly, 0, b"n" * 255 * PAGE_BYTES)
    scattered = volume.create(ROOT_INO, b"scattered", REGULAR).ino
    volume.write(scattered, 0, b"s" * 3 * PAGE_BYTES)
    for page in range(7):  # 16 words, so that one more needs a tree
        volume.write(scattered, (page * 3 + 5) * PAGE_BYTES, b"s")


@dataclass
class Template:
    """A closed image that every try begins with a copy of."""

    path: Path
    scratch: Path
    clock: ManualClock
    is_tight: bool
    volume: Volume | None = None

    def open(self) -> tuple[Volume, dict[str, int]]:
        if self.volume is not None and self.volume.image.fd >= 0:  # left by a test that failed
            self.volume.abandon()
        subprocess.run(["cp", "--sparse=always", self.path, self.scratch], check=True)
        options = Options(clock=self.clock)
        volume = Volume.open(self.scratch, options, device_class=CountedDevice)
        self.volume = volume
        names = {e.name.decode(): e.ino for e in volume.readdir(ROOT_INO) if e.cookie > 2}
        return volume, names


@pytest.fixture(scope="module", params=["roomy", "tight"])
def template(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Template]:
    """A volume: roomy; tight, where all that needs a page needs an extent; or full to the page."""
    shm = Path("/dev/shm")
    shared = tempfile.mkdtemp(prefix="pmemfs-failing-", dir=shm) if shm.is_dir() else None
    folder = Path(shared or tmp_path_factory.mktemp("failing"))
    try:
        bed = VolumeBed(folder, ManualClock(), keep_dir=folder)
        volume = bed.make()
        furnish(volume)
        furnish_more(volume)
        if request.param == "tight":
            use_up_open_extents(volume)
        elif request.param == "full":
            fill(volume)
        path = Path(volume.image.name)
        bed.finish()
        yield Template(path, folder / "copy.img", bed.clock, request.param == "tight")
    finally:
        shutil.rmtree(folder)


each_template = pytest.mark.parametrize("template", ["roomy", "tight", "full"], indirect=True)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_nth_allocation_fails(template: Template, name: str) -> None:
    operation = OPERATIONS[name]
    volume, inos = template.open()
    before, free = content(volume), volume.pool.free_pages
    allocations = count_allocations(volume)
    operation(volume, inos)
    after, free_after = content(volume), volume.pool.free_pages
    volume.close()
    for n in range(allocations.count):
        for all_behind in (True,) if template.is_tight else (False, True):
            try:
                _refuse(template, operation, n, all_behind, (before, free), (after, free_after))
            except BaseException as error:
                error.add_note(f"{name}: allocation {n} of {allocations.kinds}, {all_behind=}")
                raise


# fallocate keeps the pieces that it has done, within the size that was; see `Volume.fallocate`
KEEP_A_PREFIX = [o for name, o in OPERATIONS.items() if name.startswith(("fallocate", "zero"))]
State = tuple[Snapshot, int]


def _refuse(
    template: Template, operation: Operation, n: int, all_behind: bool, before: State, after: State
) -> None:
    volume, inos = template.open()
    allocations = count_allocations(volume)
    allocations.refuse(n, all_behind=all_behind)
    result = None
    try:
        result = operation(volume, inos)
        failed = False
    except PmemfsError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017
        failed = True
    assert allocations.refused
    allocations.stop()
    validate_volume(volume)
    if failed and operation in KEEP_A_PREFIX:
        assert _sizes(content(volume)) == _sizes(before[0])
    elif failed:
        assert content(volume) == before[0]
        assert volume.pool.free_pages == before[1]
    else:
        length = getattr(operation, "length", None)
        if length is None or result == length:
            assert _without_pages(content(volume)) == _without_pages(after[0])
        else:
            assert 0 < result < length
            _validate_prefix(volume, before[0], after[0], length)
    if failed or result != getattr(operation, "length", result):
        operation(volume, inos)
        assert _without_pages(content(volume)) == _without_pages(after[0])
    volume.close()
    validate_image(template.scratch)


def _without_pages(snapshot: Snapshot) -> Snapshot:
    """Leave the page counts out: without a free extent a piece stays in pages."""
    return {path: (*facts[:4], *facts[5:]) for path, facts in snapshot.items()}  # type: ignore[index]


def _sizes(snapshot: Snapshot) -> Snapshot:
    return {path: facts[:4] for path, facts in snapshot.items()}  # type: ignore[index]


def _validate_prefix(volume: Volume, before: Snapshot, after: Snapshot, length: int) -> None:
    """A write that ended early changed its file alone, and not beyond what it returned."""
    now = content(volume)
    changed = [path for path in now if now[path] != before[path]]
    assert len(changed) == 1
    assert now[changed[0]][3] <= after[changed[0]][3]  # type: ignore[index]
    assert length


@each_template
@pytest.mark.parametrize("name", NEED_NOTHING)
def test_what_needs_no_space_asks_for_none_that_it_cannot_do_without(
    template: Template, name: str
) -> None:
    volume, inos = template.open()
    allocations = count_allocations(volume)
    allocations.refuse(0, all_behind=True)
    OPERATIONS[name](volume, inos)
    validate_volume(volume)
    volume.close()
    validate_image(template.scratch)


@each_template
def test_opening_and_closing_allocate_nothing(template: Template) -> None:
    """But for host space under what every mount stores to, on a fresh copy of an image."""
    volume, inos = template.open()
    volume.hold(inos["tree"])
    volume.unlink(ROOT_INO, b"tree")
    volume.write(inos["small"], 0, b"dirty")
    volume.abandon()
    volume = Volume.open(
        template.scratch, Options(clock=template.clock), device_class=CountedDevice
    )
    allocations = count_allocations(volume)
    allocations.refuse(0, all_behind=True)
    assert len(volume.orphans) == 1
    idle(volume)
    volume.close()
    assert not allocations.refused
    validate_image(template.scratch)


def test_a_prefix_of_a_refused_write_is_what_it_says(template: Template) -> None:
    volume, inos = template.open()
    allocations = count_allocations(volume)
    data = bytes(range(1, 256)) * (3 * EXTENT_BYTES // 255 + 1)
    allocations.refuse(4, all_behind=True)
    ino, start = inos["small"], 2 * MIB + 10
    done = volume.write(ino, start, data)
    assert 0 < done < len(data)
    assert b"".join(volume.read(ino, start, len(data))) == data[:done]
    assert volume.inode(ino).size == start + done
    allocations.stop()
    assert volume.write(ino, start + done, data[done:]) == len(data) - done
    assert b"".join(volume.read(ino, start, len(data))) == data
    volume.close()
    validate_image(template.scratch)
