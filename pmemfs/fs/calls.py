"""What every public call of a volume passes through.

* Damage that it meets is noted: see `pmemfs.fs.damage`.
* A device is full only when nothing waits to be freed. A call without room frees what is on the
  orphan list, and is made again. It can be: a call without room has changed nothing, or what it has
  changed it may change again.
"""

from __future__ import annotations

import errno
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from pmemfs.errors import PmemfsError


class Watched(Protocol):
    """What has calls to be watched."""

    def note_error(self, error: Exception) -> bool:
        """Tell whether an error is damage, and act on it."""

    def free_orphans(self) -> bool:
        """Free all that waits to be freed and can be; tell whether there was anything."""


T = TypeVar("T", bound=type[Watched])


def watch_calls(*but_not: str) -> Callable[[T], T]:
    """Watch the public methods of a class, but for those named."""

    def watch(cls: T) -> T:
        for name, method in list(vars(cls).items()):
            if inspect.isfunction(method) and name[0] != "_" and name not in but_not:
                is_generator = inspect.isgeneratorfunction(method)
                setattr(cls, name, (_watched_generator if is_generator else _watched)(method))
        return cls

    return watch


def _watched(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Watched, *args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return method(self, *args, **kwargs)
            except PmemfsError as error:
                if error.errno != errno.ENOSPC or self.note_error(error):
                    raise
                if not self.free_orphans():
                    raise
            return method(self, *args, **kwargs)
        except Exception as error:
            self.note_error(error)
            raise

    return call


def _watched_generator(method: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    @functools.wraps(method)
    def call(self: Watched, *args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from method(self, *args, **kwargs)
        except Exception as error:
            self.note_error(error)
            raise

    return call
