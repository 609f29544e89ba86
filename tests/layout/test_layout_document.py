"""FORMAT.md is what the declarations say."""

from __future__ import annotations

import re

import pytest

from pmemfs.layout import records
from pmemfs.layout.document import FORMAT_PATH, generated, render


def test_format_document_is_up_to_date() -> None:
    text = FORMAT_PATH.read_text()
    assert render(text) == text, "run python -m pmemfs.layout.document"


def test_every_record_and_enumeration_is_in_the_document() -> None:
    blocks = re.findall(r"<!-- (\w+) -->", FORMAT_PATH.read_text())
    names = [record.name for record in records.RECORDS]
    names += ["Kind", "MapKind", "InodeFlag", "Role", "EntryKind", "PageFlag", "RequestKind"]
    assert sorted(block for block in blocks if block != "end") == sorted(names)


def test_every_field_says_what_it_means_and_how_it_changes() -> None:
    ways = {"once", "journal", "publish", "transient", "fresh"}
    for record in records.RECORDS:
        for field in record.fields:
            assert field.meaning, (record.name, field.name)
            assert field.written in ways, (record.name, field.name)


def test_render_replaces_what_is_stale() -> None:
    stale = "before\n<!-- Kind -->\nwrong\n<!-- end -->\nafter"
    assert render(stale) == f"before\n<!-- Kind -->\n{generated('Kind')}\n<!-- end -->\nafter"


def test_an_unknown_block_is_an_error() -> None:
    with pytest.raises(KeyError):
        generated("Inodes")
