"""Who may do what on a real mount: root and a real other user, through both front ends.

What the kernel decides is compared with a tmpfs; what is left to the file system stands here.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mount_run import NEEDS_MOUNT, NEEDS_ROOT, Mounted, as_user, mounted, outcome, scratch

pytestmark = [*NEEDS_MOUNT, NEEDS_ROOT]

NOBODY = 65534
CAP_DAC_OVERRIDE, CAP_SYS_ADMIN = 1, 21
FRONTENDS = ("fusepy", "native")


def through(frontend: str) -> type[Mounted]:
    return type("Through", (Mounted,), {"frontend": frontend})


@pytest.fixture(scope="module", params=FRONTENDS)
def mount(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    kind = through(request.param)
    with scratch() as folder, mounted(folder, "allow_other", mounted_class=kind) as one:
        yield one


@pytest.fixture
def place(mount: Mounted, request: pytest.FixtureRequest) -> Path:
    """A fresh directory of root's, open to all for reading."""
    path = mount.directory / request.node.name.partition("[")[0]
    path.mkdir(mode=0o755)
    return path


def attempt(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the name of its errno."""
    return outcome(lambda _: call(), "")


def drop_capability(number: int) -> None:
    """Let this process go on without one capability."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low words, then high
    assert libc.capget(header, sets) == 0
    for each in (0, 1):
        sets[each] &= ~(1 << number)
    assert libc.capset(header, sets) == 0


def as_root_without(capability: int, call: Callable[[], Any]) -> Any:
    return as_user(0, lambda: (drop_capability(capability), attempt(call))[1])


def as_ids(ids: tuple[int, int, int], call: Callable[[], Any]) -> Any:
    """Make a call with these real, effective and saved user ids."""
    return as_user(0, lambda: (os.setresuid(*ids), attempt(call))[1])


def as_nobody(call: Callable[[], Any]) -> Any:
    return as_user(NOBODY, call)


# -- the kernel checks permissions ---------------------------------------------------------------


def test_nobody_cannot_read_what_is_roots_alone(place: Path) -> None:
    secret = place / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    assert as_nobody(secret.read_text) == "EACCES"
    assert as_nobody(lambda: secret.write_text("x")) == "EACCES"
    assert as_nobody(lambda: os.truncate(secret, 0)) == "EACCES"
    assert as_nobody(lambda: os.chmod(secret, 0o666)) == "EPERM"
    assert as_nobody(lambda: os.chown(secret, NOBODY, NOBODY)) == "EPERM"
    assert as_nobody(lambda: os.unlink(secret)) == "EACCES"
    assert as_nobody(lambda: os.link(secret, place / "link")) in ("EACCES", "EPERM")
    assert as_nobody(lambda: os.rename(secret, place / "other")) == "EACCES"
    assert as_nobody(lambda: os.stat(secret).st_size) == "6"
    place.chmod(0o700)
    assert as_nobody(lambda: os.stat(secret)) == "EACCES"
    assert as_nobody(lambda: os.listdir(place)) == "EACCES"


def test_in_a_sticky_directory_each_removes_its_own(place: Path) -> None:
    place.chmod(0o1777)
    (place / "roots").write_text("r")
    assert as_nobody(lambda: (place / "mine").write_text("m")) == "1"
    assert as_user(1, lambda: os.unlink(place / "mine")) == "EPERM"
    assert as_user(1, lambda: os.rename(place / "mine", place / "x")) == "EPERM"
    assert as_nobody(lambda: os.unlink(place / "roots")) == "EPERM"
    assert as_nobody(lambda: os.rename(place / "mine", place / "roots")) == "EPERM"
    assert as_nobody(lambda: os.unlink(place / "mine")) == "None"


def test_a_set_gid_directory_gives_its_group_on(place: Path) -> None:
    os.chown(place, 0, 100)
    place.chmod(0o2777)
    assert as_nobody(lambda: os.mkdir(place / "dir")) == "None"
    assert as_nobody(lambda: (place / "file").write_text("x")) == "1"
    made = os.stat(place / "dir")
    assert (made.st_uid, made.st_gid) == (NOBODY, 100)
    assert made.st_mode & stat.S_ISGID
    assert os.stat(place / "file").st_gid == 100
    # not a member of the group: set-group-id does not stay
    assert as_nobody(lambda: os.chmod(place / "file", 0o2755)) == "None"
    assert not os.stat(place / "file").st_mode & stat.S_ISGID


def test_another_users_write_takes_set_id_away(place: Path) -> None:
    program = place / "program"
    program.write_bytes(b"x")
    program.chmod(0o6777)
    assert as_nobody(lambda: program.write_bytes(b"y")) == "1"
    assert stat.S_IMODE(os.stat(program).st_mode) == 0o777


def test_only_who_may_search_gets_through(place: Path) -> None:
    (place / "sub").mkdir()
    (place / "sub" / "file").write_text("open")
    (place / "sub").chmod(0o711)
    assert as_nobody((place / "sub" / "file").read_text) == "open"
    assert as_nobody(lambda: os.listdir(place / "sub")) == "EACCES"
    (place / "sub").chmod(0o744)
    assert as_nobody((place / "sub" / "file").read_text) == "EACCES"


def test_default_permissions_come_with_allow_other(mount: Mounted) -> None:
    options = next(
        line.split()[3]
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if line.split()[1] == str(mount.directory)
    )
    assert {"allow_other", "default_permissions", "nosuid", "nodev"} <= set(options.split(","))


def test_times_and_links_of_others(place: Path) -> None:
    """Who may write may set times to now; only the owner sets them to anything, or links it."""
    place.chmod(0o777)
    file = place / "file"
    file.write_text("x")
    file.chmod(0o604)
    assert as_nobody(lambda: os.utime(file)) == "EACCES"
    file.chmod(0o606)
    assert as_nobody(lambda: os.utime(file)) == "None"
    assert as_nobody(lambda: os.utime(file, (1, 1))) == "EPERM"
    for mode, allowed in ((0o604, False), (0o4606, False), (0o606, True)):
        file.chmod(mode)
        linked = as_nobody(lambda: os.link(file, place / "link"))
        assert linked == ("None" if allowed or not protected_links() else "EPERM"), oct(mode)
        (place / "link").unlink(missing_ok=True)


def protected_links() -> bool:
    return Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1"


def test_to_execute_takes_the_bit_for_it(place: Path) -> None:
    program = place / "true"
    shutil.copy(shutil.which("true") or "/usr/bin/true", program)
    for mode, status in ((0o755, "0"), (0o744, "EACCES"), (0o711, "0"), (0o654, "EACCES")):
        program.chmod(mode)
        ran = as_nobody(lambda: subprocess.run([program], check=False).returncode)
        assert ran == status, oct(mode)
    program.chmod(0o644)
    assert attempt(lambda: subprocess.run([program], check=False)) == "EACCES", "root neither"


def test_an_owner_gives_nothing_away(place: Path) -> None:
    place.chmod(0o777)
    file = place / "theirs"
    assert as_nobody(lambda: file.write_text("x")) == "1"
    assert as_nobody(lambda: os.chown(file, 1, -1)) == "EPERM"
    assert as_nobody(lambda: os.chown(file, -1, 1)) == "EPERM", "not a group of theirs"
    assert as_nobody(lambda: os.chown(file, -1, NOBODY)) == "None"
    file.chmod(0o6755)
    os.chown(file, 0, 0)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o755, "set-id does not go to another owner"
    assert as_nobody(lambda: os.mknod(place / "null", stat.S_IFCHR, os.makedev(1, 3))) == "EPERM"
    assert as_nobody(lambda: os.mkfifo(place / "fifo")) == "None"


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_where_nobody_is_let_in_an_inherited_descriptor_does_not_help(frontend: str) -> None:
    """Nothing is checked there but who it is: not with what root has opened, before it is left."""
    with scratch() as folder, mounted(folder, "", mounted_class=through(frontend)) as one:
        file = one.directory / "file"
        file.write_text("secret")
        file.chmod(0o666)
        one.directory.chmod(0o777)
        os.setxattr(file, USER, b"x")
        top, fd = os.open(one.directory, os.O_RDONLY), os.open(file, os.O_RDWR)
        calls: list[Callable[[], Any]] = [
            lambda: os.stat(file),
            lambda: os.listdir(top),
            lambda: os.open("file", os.O_RDONLY, dir_fd=top),
            lambda: os.stat("file", dir_fd=top),
            lambda: os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=top),
            lambda: os.unlink("file", dir_fd=top),
            lambda: os.mkdir("dir", dir_fd=top),
            lambda: os.rename("file", "other", src_dir_fd=top, dst_dir_fd=top),
            lambda: os.fchdir(top),
            lambda: os.fchmod(fd, 0o4777),
            lambda: os.fchown(fd, NOBODY, NOBODY),
            lambda: os.utime(fd),
            lambda: os.ftruncate(fd, 0),
            lambda: os.setxattr(fd, USER, b"y"),
            lambda: os.listxattr(fd),
            lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR),
        ]
        try:
            assert [as_nobody(call) for call in calls] == ["EACCES"] * len(calls)
            for ids in ((NOBODY, 0, 0), (NOBODY, NOBODY, 0), (0, NOBODY, 0)):  # set-id programs
                assert as_ids(ids, lambda: os.listdir(one.directory)) == "EACCES", ids
            assert as_nobody(lambda: os.setxattr(fd, TRUSTED, b"y")) == "EPERM"
            assert as_nobody(lambda: os.setxattr(fd, SECURITY, b"y")) == "EPERM"
        finally:
            os.close(top)
            os.close(fd)
        assert file.read_text() == "secret"
        os.chown(file, NOBODY, NOBODY)
        file.chmod(0o600)
        assert as_root_without(CAP_DAC_OVERRIDE, file.read_text) == "secret", "root is let through"


# -- extended attributes -------------------------------------------------------------------------

TRUSTED, SECURITY, USER = "trusted.secret", "security.pmemfs", "user.note"


def test_trusted_attributes_are_roots_alone(place: Path) -> None:
    file = place / "file"
    file.write_text("x")
    os.chown(file, NOBODY, NOBODY)
    os.setxattr(file, TRUSTED, b"hidden")
    os.setxattr(file, USER, b"seen")
    assert os.getxattr(file, TRUSTED) == b"hidden"
    assert set(os.listxattr(file)) == {TRUSTED, USER}
    assert as_nobody(lambda: os.getxattr(file, TRUSTED)) == "ENODATA"
    assert as_nobody(lambda: os.listxattr(file)) == repr([USER]), "not even the name"
    assert as_nobody(lambda: os.setxattr(file, TRUSTED, b"x")) == "EPERM"
    assert as_nobody(lambda: os.removexattr(file, TRUSTED)) == "EPERM"
    assert os.getxattr(file, TRUSTED) == b"hidden"


def test_root_without_the_capability_does_not_see_them(place: Path) -> None:
    """As in a container; who has it is asked only where there is such an attribute."""
    file = place / "file"
    file.write_text("x")
    os.setxattr(file, TRUSTED, b"hidden")
    os.setxattr(file, USER, b"seen")

    calls: dict[str, Callable[[], Any]] = {
        repr([USER]): lambda: os.listxattr(file),
        "ENODATA": lambda: os.getxattr(file, TRUSTED),
        "EPERM": lambda: os.setxattr(file, TRUSTED, b"x"),
    }
    for result, call in calls.items():
        assert as_root_without(CAP_SYS_ADMIN, call) == result
    assert as_user(0, lambda: sorted(os.listxattr(file))) == repr([TRUSTED, USER])


def test_security_attributes_are_set_by_root_alone(place: Path) -> None:
    file = place / "file"
    file.write_text("x")
    os.chown(file, NOBODY, NOBODY)
    os.setxattr(file, SECURITY, b"label")
    assert as_nobody(lambda: os.setxattr(file, SECURITY, b"x")) == "EPERM"
    assert as_nobody(lambda: os.removexattr(file, SECURITY)) == "EPERM"
    assert as_nobody(lambda: os.getxattr(file, SECURITY)) == repr(b"label")
    capability = bytes.fromhex("0100000220000000000000000000000000000000")
    assert as_nobody(lambda: os.setxattr(file, "security.capability", capability)) == "EPERM"
    os.setxattr(file, "security.capability", capability)
    assert as_nobody(lambda: file.write_text("y")) == "1"
    assert "security.capability" not in os.listxattr(file), "a write takes it away"


def test_user_attributes_are_for_files_and_directories(place: Path) -> None:
    os.mkfifo(place / "fifo")
    os.symlink("fifo", place / "link")
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for name in ("fifo", "link", "null"):
        path = place / name
        set_it = attempt(lambda p=path: os.setxattr(p, USER, b"x", follow_symlinks=False))
        assert set_it == "EPERM", name
        get_it = attempt(lambda p=path: os.getxattr(p, USER, follow_symlinks=False))
        assert get_it == "ENODATA", name
        os.setxattr(path, TRUSTED, b"x", follow_symlinks=False)
        assert os.listxattr(path, follow_symlinks=False) == [TRUSTED]
    os.setxattr(place, USER, b"x")


def test_user_attributes_go_by_the_permissions_of_the_file(place: Path) -> None:
    file = place / "file"
    file.write_text("x")
    os.setxattr(file, USER, b"note")
    file.chmod(0o644)
    assert as_nobody(lambda: os.getxattr(file, USER)) == repr(b"note")
    assert as_nobody(lambda: os.setxattr(file, USER, b"x")) == "EACCES"
    file.chmod(0o600)
    assert as_nobody(lambda: os.getxattr(file, USER)) == "EACCES"
    file.chmod(0o622)
    assert as_nobody(lambda: os.setxattr(file, USER, b"x")) == "None"
    place.chmod(0o1777)
    assert as_nobody(lambda: os.setxattr(place, USER, b"x")) == "EPERM", "sticky, and not theirs"


def test_other_namespaces_are_refused(place: Path) -> None:
    for name in ("system.other", "plain", "btrfs.compression"):
        assert attempt(lambda n=name: os.setxattr(place, n, b"x")) == "ENOTSUP"


def acl_value(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NO_ID = 0xFFFFFFFF
SOUND = acl_value((1, 6, NO_ID), (2, 6, 65534), (4, 4, NO_ID), (16, 6, NO_ID), (32, 4, NO_ID))
UNSOUND = {
    "cut": SOUND[:-1],
    "no version": SOUND[:3],
    "version 3": b"\3" + SOUND[1:],
    "a tag that is none": acl_value((1, 6, NO_ID), (3, 6, 5), (4, 4, NO_ID), (32, 4, NO_ID)),
    "no mask": acl_value((1, 6, NO_ID), (2, 6, 5), (4, 4, NO_ID), (32, 4, NO_ID)),
    "two owners": acl_value((1, 6, NO_ID), (1, 6, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)),
    "permissions that are none": acl_value((1, 15, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)),
}


@pytest.mark.parametrize("options", ["", "allow_other"])
@pytest.mark.parametrize("frontend", FRONTENDS)
def test_only_sound_access_control_lists_are_taken(frontend: str, options: str) -> None:
    with scratch() as folder, mounted(folder, options, mounted_class=through(frontend)) as one:
        (one.directory / "dir").mkdir()
        for name in ("system.posix_acl_access", "system.posix_acl_default"):
            for what, value in UNSOUND.items():
                refused = attempt(lambda n=name, v=value: os.setxattr(one.directory / "dir", n, v))
                assert refused in ("EINVAL", "ENOTSUP"), what
        assert os.listxattr(one.directory / "dir") == []
        if options:
            taken = as_nobody(lambda: os.setxattr(one.directory / "dir", name, SOUND))
            assert taken == "EPERM", "not theirs"


# -- nodev and nosuid ----------------------------------------------------------------------------


def effective_uid(program: Path) -> int:
    """What ``id -u`` says when another user runs that copy of it."""
    done = subprocess.run(
        [program, "-u"], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def install(place: Path) -> Path:
    program = place / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    program.chmod(0o4755)
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(place / "null", 0o666)
    return program


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_set_id_and_devices_work_only_where_asked_for(frontend: str) -> None:
    kind = through(frontend)
    with scratch() as folder, mounted(folder, "allow_other", mounted_class=kind) as one:
        program = install(one.directory)
        assert stat.S_IMODE(os.stat(program).st_mode) == 0o4755, "the bit is kept"
        assert effective_uid(program) == NOBODY, "and not honoured"
        assert attempt(lambda: (one.directory / "null").read_bytes()) == "EACCES"
        one.remount("allow_other,suid,dev")
        assert effective_uid(program) == 0
        assert (one.directory / "null").read_bytes() == b""
        one.remount("allow_other,noexec")
        assert attempt(lambda: subprocess.run([program], check=False)) == "EACCES"
