"""Take a view of an image that may be changing: read, and read again if it moved meanwhile.

A daemon makes `Control.sequence` odd while it moves things. A view whose stamp was even before,
and is the same after, saw one state of the image. When no try succeeds the last one is given
with ``consistent`` false. Without a daemon the sequence means nothing: one may have died in odd.

Page descriptors move without the sequence, so what looks wrong beside a daemon is read again a
few times before it is remarked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pmemfs.errors import PmemfsError
from pmemfs.inspect.reader import Reader
from pmemfs.inspect.text import decode_path

MAX_TRIES = 50
MAX_TRIES_WITH_REMARKS = 4
BUDGET_S = 2.0
PAUSE_S = 0.001

View = Callable[[Reader], dict[str, Any]]


def collect(
    reader: Reader,
    view: View,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Return the view as a JSON-ready dict, with what every view says of the image added.

    Those are ``image``, ``live`` (a daemon has it mounted for writing), ``clean``,
    ``journal_replayed``, ``consistent`` and ``remarks``. Gives up on a busy image after
    `MAX_TRIES` or `BUDGET_S`. Raises `PmemfsError` as the view does.
    """
    deadline = clock() + BUDGET_S
    for attempt in range(1, MAX_TRIES + 1):
        before = reader.refresh()
        is_last = attempt == MAX_TRIES or clock() >= deadline
        if before.is_moving and not is_last:
            sleep(PAUSE_S)
            continue
        result = _try(reader, view)
        consistent = not before.is_moving and reader.stamp() == before
        doubtful = before.live and reader.remarks and attempt < MAX_TRIES_WITH_REMARKS
        if is_last or (consistent and not doubtful):
            break
        sleep(PAUSE_S)
    if isinstance(result, PmemfsError):
        raise result
    return _about(reader, consistent) | result | {"remarks": reader.all_remarks()}


# What a view of a moving image raises may be due to the moving.
def _try(reader: Reader, view: View) -> dict[str, Any] | PmemfsError:
    try:
        return view(reader)
    except PmemfsError as error:
        return error


def _about(reader: Reader, consistent: bool) -> dict[str, Any]:
    return {
        "image": decode_path(reader.image.name),
        "live": reader.live,
        "clean": reader.is_clean,
        "journal_replayed": reader.live or not reader.has_replay,
        "consistent": consistent,
    }
