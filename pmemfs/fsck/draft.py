"""What the image will be: a private mapping that repairs are tried on, and the list of them.

Invariants:

* Nothing here reaches the host file. A repair is stored into the private mapping, so that the
  next pass of the checker sees it, and kept as a list of stores for `apply`.
* A repair is asked for before its first store: what is declined was never made.
* The stores of one repair stand in the order in which they may become durable: what nothing
  refers to yet, then what refers to it, then what is given up.

It knows records and tables, and nothing of what is wrong: that is for `mend`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from pmemfs.errors import InvariantError
from pmemfs.fsck.owners import owner_word_offset
from pmemfs.image import Image
from pmemfs.layout.geometry import CONTROL_OFFSET, HEAD_DURABLE_BYTES, WORD_BYTES, pfn_to_extent
from pmemfs.layout.records import CONTROL, HEAD, INODE, JOURNAL_ENTRY, NOTHING_TO_REPLAY, Kind, seal


class Risk(Enum):
    """What a repair may cost."""

    SAFE = "safe"
    LOSES = "loses something"


class Way(Enum):
    """How a store reaches the device: see `apply`."""

    LOGGED = "in a transaction"
    FRESH = "before the transaction, to a page that nothing refers to"
    PLAIN = "by itself, to what transactions may not change"


class Store(NamedTuple):
    """Bytes for one place of the device."""

    offset: int
    data: bytes
    way: Way


def payload_bytes(store: Store) -> int:
    """Return what a store takes in a journal slot, in bytes."""
    if store.way != Way.LOGGED:
        return 0
    length = len(store.data)
    return JOURNAL_ENTRY.size_bytes + length + (-length % WORD_BYTES)


@dataclass
class Repair:
    """One mending: which check it answers, a sentence in the imperative, what it may cost."""

    check: str
    sentence: str
    risk: Risk
    stores: list[Store] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.check}: {self.sentence}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        stored = sum(len(store.data) for store in self.stores)
        return {
            "check": self.check,
            "sentence": self.sentence,
            "risk": self.risk.value,
            "stored_bytes": stored,
        }


Decide = Callable[[Repair], bool]

_DURABLE = [name for name, at in HEAD.offset_of.items() if at < HEAD_DURABLE_BYTES]
_DURABLE.remove("checksum")


def pack_durable(kind: int, **fields: int) -> bytes:
    """Return the durable half of a head: sealed, or zeros if it is free."""
    if kind == Kind.FREE:
        return bytes(HEAD_DURABLE_BYTES)
    body = HEAD.pack(kind=kind, **fields)[: HEAD.offset_of["checksum"]]
    return body + zlib.crc32(body).to_bytes(4, "little")


class Draft:
    """An image that was opened ``private``, the repairs made on it, and those declined.

    ``sequence`` is the number of the last transaction, ``blocked`` has what cannot be mended
    and why, ``doubtful`` the inodes that were kept though their checksum was wrong.
    """

    def __init__(self, image: Image, decide: Decide) -> None:
        if not image.device.private:
            raise InvariantError("repairs are drafted in a private mapping only")
        self.image = image
        self.sequence = 0
        self.repairs: list[Repair] = []
        self.declined: list[Repair] = []
        self.blocked: list[str] = []
        self.doubtful: set[int] = set()
        self._decide = decide
        self._before: list[tuple[int, bytes]] = []

    def begin(self, check: str, sentence: str, risk: Risk = Risk.SAFE) -> bool:
        """Start a repair, to which all stores belong until the next; False if it is declined."""
        repair = Repair(check, sentence, risk)
        if not self._decide(repair):
            self.declined.append(repair)
            return False
        self.repairs.append(repair)
        self._before = []
        return True

    def undo(self, why: str) -> None:
        """Take the repair that has begun back, since it cannot be made."""
        for offset, data in reversed(self._before):
            self.image.device.store(offset, data)
        self._before = []
        self.repairs.pop()
        self.block(why)

    def logged_bytes(self) -> int:
        """Return what the repair that has begun will take in the journal, in bytes."""
        return sum(payload_bytes(store) for store in self.repairs[-1].stores)

    def block(self, sentence: str) -> None:
        """Note something that cannot be mended, once."""
        if sentence not in self.blocked:
            self.blocked.append(sentence)

    def put(self, offset: int, data: bytes, way: Way = Way.LOGGED) -> None:
        """Store into the draft; bytes that are there already cost nothing."""
        before = bytes(self.image.device.view[offset : offset + len(data)])
        if before == data:
            return
        self._before.append((offset, before))
        self.image.device.store(offset, data)
        self.repairs[-1].stores.append(Store(offset, bytes(data), way))

    def set_sequence(self, sequence: int) -> None:
        """Let another transaction be the last one; nothing of it is left to replay."""
        self.sequence = sequence
        offset = CONTROL_OFFSET + CONTROL.offset_of["committed"]
        self.put(offset, (sequence | NOTHING_TO_REPLAY).to_bytes(8, "little"), Way.PLAIN)

    # -- records -----------------------------------------------------------------------------

    def head(self, extent: int) -> dict[str, Any]:
        """Return a head as it is in the draft."""
        return HEAD.unpack(self.image.device.view, self.image.geometry.head_offset(extent))

    def put_head(self, extent: int, kind: int, **fields: int) -> None:
        """Replace the durable half of a head."""
        self.put(self.image.geometry.head_offset(extent), pack_durable(kind, **fields))

    def patch_head(self, extent: int, **fields: int) -> None:
        """Change fields of a head, and seal it."""
        head = self.head(extent)
        values = {name: head[name] for name in _DURABLE} | fields
        self.put_head(extent, values.pop("kind"), **values)

    def patch_inode(self, offset: int, **fields: Any) -> None:
        """Change fields of the inode at a byte offset, and seal it."""
        values = INODE.unpack(self.image.device.view, offset) | fields
        self.put(offset, seal(INODE, **values))

    def put_inode(self, offset: int, **fields: Any) -> None:
        """Replace the inode at a byte offset; fields not named are zero."""
        self.put(offset, seal(INODE, **fields))

    def set_owner(self, pfn: int, word: int) -> None:
        """Set one owner word, and the count in the head of its extent."""
        offset = owner_word_offset(pfn)
        before = int.from_bytes(self.image.device.view[offset : offset + 8], "little")
        extent = pfn_to_extent(pfn)
        self.put(offset, word.to_bytes(8, "little"))
        used = self.head(extent)["used"] + (word != 0) - (before != 0)
        self.patch_head(extent, used=min(max(used, 0), 511))
