"""One declaration of a record gives its numpy dtype, its struct, its offsets and its table.

Invariants: little-endian, every field naturally aligned, no padding that is not a declared
field; a violation is an `InvariantError` at import.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pmemfs.errors import InvariantError

_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i32": "i", "i64": "q"}


@dataclass(frozen=True)
class Field:
    """One field: ``type`` is u8, u16, u32, u64, i32, i64 or ``bytes:N``; ``count`` makes an array.

    ``written`` says how it changes: ``once`` at mkfs, ``journal`` by transactions only,
    ``publish`` as an atomic word that commits something, ``transient`` unordered and believed
    only under the current mount generation, ``fresh`` while nothing refers to it.
    """

    name: str
    type: str
    meaning: str
    written: str = "journal"
    count: int = 1

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole field."""
        if self.type.startswith("bytes:"):
            return int(self.type[6:])
        return struct.calcsize(_CODES[self.type]) * self.count

    @property
    def alignment(self) -> int:
        """Bytes the offset must be a multiple of."""
        return 1 if self.type.startswith("bytes:") else struct.calcsize(_CODES[self.type])


class Record:
    """A fixed-size record: ``size_bytes``, ``dtype``, ``struct``, ``offset_of``."""

    def __init__(self, name: str, size_bytes: int, meaning: str, fields: list[Field]) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.meaning = meaning
        self.fields = fields
        self.offset_of: dict[str, int] = {}
        offset = 0
        for field in fields:
            if offset % field.alignment:
                raise InvariantError(f"{name}.{field.name} is not aligned at offset {offset}")
            self.offset_of[field.name] = offset
            offset += field.size_bytes
        if offset != size_bytes:
            raise InvariantError(f"{name} has {offset} bytes of fields, not {size_bytes}")
        self.struct = struct.Struct("<" + "".join(self._struct_code(field) for field in fields))
        self.dtype = np.dtype([self._dtype_entry(field) for field in fields])
        if self.struct.size != size_bytes or self.dtype.itemsize != size_bytes:
            raise InvariantError(f"{name} does not pack into {size_bytes} bytes")

    @staticmethod
    def _struct_code(field: Field) -> str:
        if field.type.startswith("bytes:"):
            return f"{field.size_bytes}s"
        return f"{field.count}{_CODES[field.type]}" if field.count > 1 else _CODES[field.type]

    @staticmethod
    def _dtype_entry(field: Field) -> tuple[Any, ...]:
        if field.type.startswith("bytes:"):
            return (field.name, f"V{field.size_bytes}")
        code = "<" + field.type[0] + str(int(field.type[1:]) // 8)
        return (field.name, code, (field.count,)) if field.count > 1 else (field.name, code)

    def unpack(self, buffer: Any, offset: int = 0) -> dict[str, Any]:
        """Return the fields at ``offset`` of a buffer; arrays become tuples."""
        values = iter(self.struct.unpack_from(buffer, offset))
        out: dict[str, Any] = {}
        for field in self.fields:
            if field.count > 1:
                out[field.name] = tuple(next(values) for _ in range(field.count))
            else:
                out[field.name] = next(values)
        return out

    def unpacker(self, *names: str) -> Callable[..., tuple[Any, ...]]:
        """Return an ``unpack_from`` that gives some fields only, named in their order."""
        code = "<"
        wanted = list(names)
        for field in self.fields:
            if wanted and field.name == wanted[0]:
                code += self._struct_code(field)
                del wanted[0]
            else:
                code += f"{field.size_bytes}x"
        if wanted:
            raise InvariantError(f"{self.name} has no field {wanted[0]}, or not in this order")
        return struct.Struct(code).unpack_from

    def pack(self, **values: Any) -> bytes:
        """Return the record; fields not named are zero. Unknown names raise ``TypeError``."""
        flat: list[Any] = []
        for field in self.fields:
            value = values.pop(field.name, None)
            if field.type.startswith("bytes:"):
                flat.append(value or b"")
            elif field.count > 1:
                items = list(value or ())
                flat += items + [0] * (field.count - len(items))
            else:
                flat.append(value or 0)
        if values:
            raise TypeError(f"{self.name} has no field {', '.join(values)}")
        return self.struct.pack(*flat)

    def table(self) -> str:
        """Return the Markdown table that FORMAT.md shows."""
        lines = [
            f"**{self.name}**, {self.size_bytes} bytes: {self.meaning}",
            "",
            "| offset | field | type | written | meaning |",
            "| ---: | --- | --- | --- | --- |",
        ]
        for field in self.fields:
            kind = field.type.replace("bytes:", "bytes × ")
            kind += f" × {field.count}" if field.count > 1 else ""
            lines.append(
                f"| {self.offset_of[field.name]} | `{field.name}` | {kind} "
                f"| {field.written} | {field.meaning.replace('|', chr(92) + '|')} |"
            )
        return "\n".join(lines)
