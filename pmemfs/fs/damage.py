"""What an open volume does when it meets damage: turn read-only, as ext4 with errors=remount-ro.

Damage is

* what the image says and cannot be true: `DamagedImageError`;
* a broken invariant of the program: `InvariantError`;
* a host that cannot make the image durable: `HostError`;
* a commit that failed after its commit word was stored, whatever the reason: then memory and image
  may disagree (`Journal.failure`).

From then on no transaction begins and no access is noted, so nothing is stored; changes are EROFS
and reads go on. The state "damaged" is published in the control page, so that the next mount
checks the image before it trusts it, and closing does not call it clean. What was committed is
there. The log gets one line with the reason and what to do, then each further reason once.

With ``errors="continue"`` the volume goes on, but not after a failed commit.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, TypeVar

from pmemfs.errors import DamagedImageError, HostError, InvariantError

log = logging.getLogger("pmemfs.fs")

Errors = Literal["remount-ro", "continue"]
ERRORS: tuple[Errors, ...] = ("remount-ro", "continue")
_DAMAGE = (DamagedImageError, InvariantError, HostError)
_MOST_REASONS = 50


class Watched(Protocol):
    """What has calls to be watched."""

    def note_error(self, error: Exception) -> bool:
        """Tell whether an error is damage, and act on it."""


T = TypeVar("T", bound=type[Watched])


class DamageLog:
    """What damage a volume has met, each reason logged once. ``name`` is that of its image."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reasons: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def note(self, reason: str, then: str) -> None:
        """Log a reason, and what happens then, unless it is known."""
        if reason in self._reasons or len(self._reasons) >= _MOST_REASONS:
            return
        if not self._reasons:
            reason_and_then = f"{reason}; {then}. Unmount it and run: pmemfs fsck {self._name}"
        else:
            reason_and_then = reason
        self._reasons.add(reason)
        log.error("%s is damaged: %s", self._name, reason_and_then)


def is_damage(error: Exception) -> bool:
    """Tell whether an error says by itself that image or program are wrong."""
    return isinstance(error, _DAMAGE)


def watch_calls(*but_not: str) -> Callable[[T], T]:
    """Let ``note_error`` of a class see what its public methods raise, but for those named."""

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
