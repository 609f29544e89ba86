"""Keep the tables of FORMAT.md equal to the declarations: ``python -m pmemfs.layout.document``.

Between ``<!-- NAME -->`` and ``<!-- end -->`` stands what is generated; the rest is prose.
"""

from __future__ import annotations

import re
import sys
from enum import IntEnum, IntFlag
from pathlib import Path

from pmemfs.layout import records

FORMAT_PATH = Path(__file__).with_name("FORMAT.md")
_BLOCK = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def _enumeration(members: type[IntEnum] | type[IntFlag]) -> str:
    rows = [f"| {int(m):#x} | {m.name} |" for m in members]
    return "\n".join([f"**{members.__name__}**", "", "| value | name |", "| ---: | --- |", *rows])


def generated(name: str) -> str:
    """Return the generated text of one block; raises ``KeyError`` for an unknown name."""
    for record in records.RECORDS:
        if record.name == name:
            return record.table()
    members = getattr(records, name, None)
    if isinstance(members, type) and issubclass(members, IntEnum | IntFlag):
        return _enumeration(members)
    raise KeyError(name)


def render(text: str) -> str:
    """Return ``text`` with every generated block brought up to date."""
    return _BLOCK.sub(lambda m: f"<!-- {m[1]} -->\n{generated(m[1])}\n<!-- end -->", text)


def main(arguments: list[str]) -> int:
    """Bring FORMAT.md up to date, or with ``--check`` only tell whether it is; exit status."""
    text = FORMAT_PATH.read_text(encoding="utf-8")
    is_current = render(text) == text
    if "--check" in arguments:
        if not is_current:
            sys.stderr.write("FORMAT.md is not up to date: python -m pmemfs.layout.document\n")
        return 0 if is_current else 1
    FORMAT_PATH.write_text(render(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
