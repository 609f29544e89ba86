"""Mend an image that is not mounted.

A repair is planned and then made. *Planning* works on a private mapping: it replays the
transaction that was left, lets the checker find the lowest layer with damage, calls the mender for
it, and checks again, until nothing is found or nothing more may be done. So what will be written
has been checked whole before the first store. *Making* it is for `apply`, which stores the plan
so that a kill at any point leaves an image that the next run mends further.

A layer is only mended when those below it are in order; so when a repair is declined, what is
planned until then is still made, and nothing above.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pmemfs.device import MappedDevice
from pmemfs.errors import PmemfsError
from pmemfs.fsck.apply import apply
from pmemfs.fsck.draft import Decide, Draft, Repair, Risk
from pmemfs.fsck.journal import Transaction, read_transaction
from pmemfs.fsck.mend import MENDERS
from pmemfs.fsck.mend.mending import Mending, NoPageError
from pmemfs.fsck.passes import Checker, Progress
from pmemfs.fsck.report import Report
from pmemfs.image import Image, lock_image, open_file, unlock_image
from pmemfs.layout.geometry import CONTROL_OFFSET
from pmemfs.layout.records import CONTROL, NOTHING_TO_REPLAY, MountState

MAX_ROUNDS = 100
_COMMITTED = CONTROL_OFFSET + CONTROL.offset_of["committed"]
_STATE = CONTROL_OFFSET + CONTROL.offset_of["state"]

Confirm = Callable[["Plan"], bool]


def only_safe(repair: Repair) -> bool:
    """Decide for every repair that loses nothing, as ``-p`` does."""
    return repair.risk == Risk.SAFE


def everything(repair: Repair) -> bool:
    """Decide for every repair, as ``-y`` does."""
    return True


@dataclass
class Plan:
    """What a repair found and what it will do.

    ``found`` is the report of the image as it is, ``left`` that of the image as it will be.
    ``sequence`` is the number of the last transaction, ``transaction`` the one to replay.
    ``is_made`` tells whether the plan has been stored.
    """

    found: Report
    left: Report
    sequence: int
    transaction: Transaction | None
    repairs: list[Repair] = field(default_factory=list)
    declined: list[Repair] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    is_made: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to store."""
        return not self.repairs and self.found.was_closed

    @property
    def is_complete(self) -> bool:
        """Whether the image will be clean."""
        return self.left.is_clean and not self.declined

    def to_dict(self) -> dict[str, Any]:
        """Return the report of what was found, and the repairs, as plain values for JSON."""
        return self.found.to_dict() | {
            "made": self.is_made,
            "clean_now": self.is_complete and (self.is_made or self.is_empty),
            "repairs": [made.to_dict() for made in self.repairs],
            "declined": [refused.to_dict() for refused in self.declined],
            "blocked": self.blocked,
            "left": dict(self.left.counts),
        }


def repair(
    path: str | os.PathLike[str],
    *,
    decide: Decide = only_safe,
    confirm: Confirm | None = None,
    found: Callable[[Report], None] | None = None,
    progress: Progress | None = None,
    device_class: type[MappedDevice] = MappedDevice,
    now_ns: Callable[[], int] = time.time_ns,
) -> Plan:
    """Check an image and mend what ``decide`` allows; return what was found and done.

    ``found`` is called with the report of the image as it is, before anything is decided.
    ``decide`` is asked for each repair before it is planned, ``confirm`` once for all of them
    before the first store; if it says no, nothing is written. All is durable on return. Raises
    `PmemfsError`: EBUSY when the image is in use, EUCLEAN when no superblock can be read, ENOSPC
    when the host is full, ENOMEM; the image is as it was then.
    """
    fd = open_file(path, writable=True)
    name = os.fspath(path)
    try:
        lock_image(fd, "exclusive", name)
        image = Image(os.dup(fd), name, private=True)
        try:
            plan = plan_repairs(image, decide, found=found, progress=progress, now_ns=now_ns)
        except MemoryError as error:
            raise PmemfsError(errno.ENOMEM, f"not enough memory to mend {name}") from error
        finally:
            image.close(unlock=False)
        if not plan.is_empty and (confirm is None or confirm(plan)):
            _make(fd, name, plan, device_class)
            plan.is_made = True
        return plan
    finally:
        unlock_image(fd)
        os.close(fd)


def _make(fd: int, name: str, plan: Plan, device_class: type[MappedDevice]) -> None:
    image = Image(os.dup(fd), name, device_class=device_class)
    try:
        if image.is_read_only_format:
            raise PmemfsError(
                errno.EROFS, f"{name} has features that only a newer pmemfs may write"
            )
        apply(
            image,
            plan.repairs,
            plan.sequence,
            transaction=plan.transaction,
            complete=plan.is_complete,
        )
    except PmemfsError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise PmemfsError(
            errno.ENOSPC,
            f"{name} is left as it was: the host file system that it lies on has no room for "
            "what the repair stores; make room there, and run this again",
        ) from error
    finally:
        image.close(unlock=False)


def plan_repairs(
    image: Image,
    decide: Decide,
    *,
    found: Callable[[Report], None] | None = None,
    progress: Progress | None = None,
    now_ns: Callable[[], int] = time.time_ns,
) -> Plan:
    """Return the repairs that make an image clean, or as clean as ``decide`` allows.

    The image must be open ``private``; the repairs are made in its mapping.
    """
    draft = Draft(image, decide)
    reading = read_transaction(image)
    transaction = _result(reading)
    report = Checker(image, progress).run()
    if found is not None:
        found(report)
    committed = image.control()["committed"]
    plan = Plan(report, report, committed & ~NOTHING_TO_REPLAY, transaction)
    if report.is_clean and report.was_closed:
        return plan
    if _settle(draft, plan, committed):
        plan.left = _mend(draft, progress, now_ns())
    plan.repairs = [made for made in draft.repairs if made.stores or made.check == "journal"]
    plan.sequence, plan.declined, plan.blocked = draft.sequence, draft.declined, draft.blocked
    return plan


def _result(reading: object) -> Transaction | None:
    """Run a generator of findings to its end, and return what it returns."""
    while True:
        try:
            next(reading)  # type: ignore[call-overload]
        except StopIteration as stop:
            result: Transaction | None = stop.value
            return result


def _settle(draft: Draft, plan: Plan, committed: int) -> bool:
    """Let the draft be closed, with nothing to replay, so that the free extents are checked."""
    if plan.transaction is not None:
        sentence = f"replay transaction {plan.transaction.sequence}"
        draft.begin("journal", sentence)
    elif not committed & NOTHING_TO_REPLAY:
        sentence = f"give up transaction {committed}, which the journal has lost"
        if not draft.begin("journal", sentence, Risk.LOSES):
            return False
    elif not plan.found.was_closed:
        draft.begin("journal", "mark the image as closed")
    draft.sequence = plan.sequence
    device = draft.image.device
    device.store(_COMMITTED, (committed | NOTHING_TO_REPLAY).to_bytes(8, "little"))
    device.store(_STATE, int(MountState.CLEAN).to_bytes(8, "little"))
    return True


def _mend(draft: Draft, progress: Progress | None, now_ns: int) -> Report:
    """Check and mend until nothing is found or nothing changes; return the last report."""
    for _ in range(MAX_ROUNDS):
        checker = Checker(draft.image, progress, to_mend=True)
        report = checker.run(until_damaged=True)
        if report.is_clean or draft.declined or not _mend_lowest(draft, checker, now_ns):
            return report
    return report


def _mend_lowest(draft: Draft, checker: Checker, now_ns: int) -> bool:
    """Call menders for what was found, until one has changed something or has been declined."""
    blocked = len(draft.blocked)
    for checks, mender in MENDERS:
        if any(check in checker.report.counts for check in checks):
            first = len(draft.repairs)
            try:
                mender(Mending(draft, checker, now_ns))
            except NoPageError:
                draft.undo(f"there is no free page for this: {draft.repairs[-1]}")
            if draft.declined or any(made.stores for made in draft.repairs[first:]):
                return True
            if len(draft.blocked) > blocked:
                return False
    return False
