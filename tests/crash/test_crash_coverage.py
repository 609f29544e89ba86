"""Is everything crashed? Each call of a Volume that stores has a case, with each of its arguments.

A new call, or a new optional argument, fails here until a case makes it.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import stat
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crash_calls import do, ino, setxattr, symlink
from crash_case import SECOND, Case, prepared
from crash_cases import CASES
from crash_images import IMAGE_CASES
from crash_lint import NEEDLESS, read_table
from crash_setups import tree
from crash_tree import Allowed, observe

from pmemfs.fs import Volume

# what stores nothing, each as it is called on `looked_at`
LOOKS: dict[str, Callable[[Volume], Any]] = {
    "statfs": lambda v: v.statfs(),
    "inode": lambda v: v.inode(1),
    "lookup": lambda v: v.lookup(1, b"d"),
    "find": lambda v: v.find(1, b"nothing"),
    "resolve": lambda v: v.resolve(b"/d/f"),
    "readdir": lambda v: list(v.readdir(1)),
    "hold": lambda v: v.hold(ino(v, b"/d/f")),
    "readlink": lambda v: v.readlink(ino(v, b"/s")),
    "getxattr": lambda v: v.getxattr(ino(v, b"/d/f"), b"user.a"),
    "listxattr": lambda v: v.listxattr(ino(v, b"/d/f"), lambda: True),
    "inode_flags": lambda v: v.inode_flags(1),
    "seek": lambda v: v.seek(ino(v, b"/d/f"), 0, data=True),
    "abandon": lambda v: None,  # every case ends with it
}
looked_at = do(tree, symlink(b"/s", b"target"), setxattr(b"/d/f", b"user.a", b"1"))
IMAGES = {"open": "mount-unclean", "format": "mkfs"}

CALLS = {
    name: getattr(Volume, name)
    for name in vars(Volume)
    if name[0] != "_" and name not in LOOKS | IMAGES and inspect.isroutine(getattr(Volume, name))
}
Seen = set[tuple[str, str]]


@pytest.fixture(scope="module")
def made() -> tuple[Seen, set[int]]:
    """The calls that the operations of the cases make, with each optional argument that is not
    its default; and the types of what they create.
    """
    seen: Seen = set()
    types: set[int] = set()
    with pytest.MonkeyPatch.context() as patch:
        for name, method in CALLS.items():
            patch.setattr(Volume, name, _noting(name, method, seen, types))
        for case in CASES:
            with prepared(case) as (_, volume, _):
                volume.device.start()
                case.operation(volume)
    return seen, types


def _noting(name: str, method: Callable[..., Any], seen: Seen, types: set[int]) -> Any:
    signature = inspect.signature(method)
    optional = {n: p.default for n, p in signature.parameters.items() if p.default is not p.empty}

    @functools.wraps(method)
    def call(self: Volume, *args: Any, **kwargs: Any) -> Any:
        if self.device.recording and not _is_nested():
            given = signature.bind(self, *args, **kwargs).arguments
            seen.add((name, ""))
            seen.update((name, n) for n in optional if given.get(n, optional[n]) != optional[n])
            if name == "create":
                types.add(stat.S_IFMT(given["mode"]))
        return method(self, *args, **kwargs)

    return call


def _is_nested() -> bool:
    """Whether a call of a volume is made by another one, and not by the operation of a case."""
    frame = inspect.currentframe()
    own = frame.f_back if frame is not None else None
    caller = own.f_back if own is not None else None
    return caller is not None and "pmemfs" in str(caller.f_globals["__name__"]).split(".")


def _wanted() -> Iterator[tuple[str, str]]:
    for name, method in CALLS.items():
        yield name, ""
        for parameter in inspect.signature(method).parameters.values():
            if parameter.default is not parameter.empty:
                yield name, parameter.name


def test_each_call_and_argument_has_a_case(made: tuple[Seen, set[int]]) -> None:
    seen, types = made
    missing = sorted(set(_wanted()) - seen)
    assert not missing, f"no case in tests/crash/cases_*.py makes {missing}"
    kinds = {stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFCHR}
    assert types == kinds
    assert IMAGE_CASES.keys() >= set(IMAGES.values())


@pytest.mark.parametrize("name", LOOKS)
def test_what_only_looks_stores_nothing(name: str) -> None:
    assert hasattr(Volume, name)
    with prepared(Case("look", looked_at, lambda volume: None)) as (_, volume, _):
        volume.device.start()
        LOOKS[name](volume)
        assert not volume.device.stop()


def test_the_table_of_the_lint_has_these_cases() -> None:
    assert list(read_table()) == [case.name for case in CASES], (
        "crash_lint.py --update writes the table"
    )


def test_what_is_needless_is_explained() -> None:
    needless = {n for n, row in read_table().items() if row.needless_flushes or row.needless_fences}
    assert sorted(needless) == sorted(itertools.chain(*NEEDLESS.values()))


def test_flags_are_compared() -> None:
    with prepared(Case("flags", tree, lambda volume: None)) as (_, volume, clock):
        clock.now -= 10 * SECOND  # the time of the setup: times are equal
        before = observe(volume)
        volume.set_inode_flags(ino(volume, b"/d/f"), 0x20)
        after = observe(volume)
    assert [path for path in before if before[path] != after[path]] == [b"/d/f"]
    with pytest.raises(AssertionError, match="no allowed tree"):
        Allowed([before], [0]).match(after, 0)
