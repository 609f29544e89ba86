"""Sizes as people type and read them."""

from __future__ import annotations

import pytest

from pmemfs.units import GIB, KIB, MIB, TIB, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64M", 64 * MIB),
        ("64m", 64 * MIB),
        ("64MB", 64 * MIB),
        ("64MiB", 64 * MIB),
        (" 64 MiB ", 64 * MIB),
        ("1.5G", 3 * GIB // 2),
        ("16T", 16 * TIB),
        ("8K", 8 * KIB),
        ("1P", 1024 * TIB),
    ],
)
def test_parse_size(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "1X", "1 2", "0x10", "1e9", "64 M M", "½G", "9" * 400]
)
def test_parse_size_says_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write 64M"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (4095, "4.00 KiB"),
        (100, "100 B"),
        (64 * MIB, "64 MiB"),
        (3 * GIB // 2, "1.50 GiB"),
        (16 * TIB, "16 TiB"),
        (1 << 51, "2 PiB"),
    ],
)
def test_format_size(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize("size_bytes", [KIB, 64 * MIB, 3 * GIB, 16 * TIB])
def test_what_is_printed_can_be_typed(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes
