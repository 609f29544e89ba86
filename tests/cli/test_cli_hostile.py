"""Names from an image, printed by every command: nothing in them reaches a terminal as it is.

Escape sequences, newlines, bytes that are no UTF-8, bidi controls, markup of rich and format
strings; on plain output, on a terminal, in errors, in JSON, and in the log.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner
from volumes import REGULAR

from pmemfs.cli import main
from pmemfs.errors import PmemfsError
from pmemfs.fs import Volume
from pmemfs.fs.volume import ROOT_INO
from pmemfs.fuse import daemon
from pmemfs.layout.geometry import PAGE_BYTES
from pmemfs.layout.records import DIRECTORY_LEAF, DIRECTORY_SLOT, XATTR_PAGE

NAMES = (
    b"esc\x1b[2J\x1b]0;title\x07",
    b"new\nline\rreturn\ttab\x08",
    b"c1 \xc2\x9b31m",
    b"not utf-8 \xff\xfe\xed\xa0\x80",
    "bidi \u202egpj.exe\u2066".encode(),
    b"[red]markup[bold] [link=x]y",
    b"%s%n %(name)s {0.__class__} {}",
    b"\\x1b[0m",
)
LABEL = "la\u202ebel[red]"
# what a program may send to a terminal of its own accord: colours and weights
STYLES = re.compile(rb"\x1b\[[0-9;]*m")
BIDI = [c.encode() for c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"]


@pytest.fixture
def image(image_dir: Path) -> Path:
    """Each name once as a file, as a link to itself, and below a directory of that name."""
    path = image_dir / "hostile.img"
    Volume.format(path, 64 << 20, label=LABEL)
    with Volume.open(path) as volume:
        for name in NAMES:
            top = volume.mkdir(ROOT_INO, name, 0o755).ino
            volume.create(top, name, REGULAR)
            volume.symlink(top, b"link to " + name, name)
    return path


def damage(image: Path) -> None:
    """Let every name stand for an inode of another type, so that fsck has to say so."""
    with Volume.open(image) as volume:
        leaf = volume.inode(ROOT_INO).words[0] * PAGE_BYTES
        leaves = [leaf] + [volume.lookup(ROOT_INO, n).words[0] * PAGE_BYTES for n in NAMES]
    with open(image, "r+b") as file:
        for start in leaves:
            file.seek(start)
            page = bytearray(file.read(PAGE_BYTES))
            for slot in range(DIRECTORY_LEAF.unpack(page)["slots"]):
                at = DIRECTORY_LEAF.size_bytes + slot * DIRECTORY_SLOT.size_bytes
                page[at + DIRECTORY_SLOT.offset_of["type"]] = 1
            file.seek(start)
            file.write(page)


def assert_harmless(output: bytes) -> None:
    text = STYLES.sub(b"", output).replace(b"\r\n", b"\n")
    wild = sorted({byte for byte in text if (byte < 32 and byte != 10) or byte == 127})
    assert not wild, (wild, text)
    assert not [mark for mark in BIDI if mark in text], text
    decoded = text.decode()  # and it is UTF-8
    assert all(c.isprintable() or c == "\n" for c in decoded), repr(decoded)


def run(*arguments: object) -> bytes:
    command = [os.fsencode(a) if isinstance(a, bytes) else str(a) for a in arguments]
    result = CliRunner().invoke(main, [os.fsdecode(c) for c in command], prog_name="pmemfs")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout_bytes + result.stderr_bytes


def on_terminal(*arguments: object) -> bytes:
    """Run the program on a terminal of its own, and return all that it sent there."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pmemfs", *map(os.fsencode, map(str, arguments))]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        output = b""
        with io.FileIO(ours) as terminal:
            try:
                while part := terminal.read(1 << 16):
                    output += part
            except OSError:  # the other end is gone
                pass
        process.wait(timeout=60)
    return output


@pytest.mark.parametrize("name", NAMES)
def test_inspect_file(image: Path, name: bytes) -> None:
    for path in (name, name + b"/" + name, name + b"/link to " + name):
        output = run("inspect", "file", image, b"/" + path)
        assert b"inode" in output
        assert_harmless(output)
        document = run("inspect", "file", image, b"/" + path, "--json")
        assert_harmless(document)
        assert json.loads(document)["path"]


@pytest.mark.parametrize("name", NAMES)
def test_errors_name_what_is_wrong(image: Path, name: bytes) -> None:
    for path in (b"/missing " + name, b"/" + name + b"/" + name + b"/below"):
        output = run("inspect", "file", image, path)
        assert output.startswith(b"pmemfs: ")
        assert_harmless(output)
    for command in (("fsck",), ("inspect", "usage"), ("mount",)):
        more = (image.parent,) if command == ("mount",) else ()
        output = run(*command, os.fsencode(image.parent) + b"/no " + name, *more)
        assert_harmless(output)
        assert b"no " in output


def test_fsck_prints_names(image: Path) -> None:
    damage(image)
    output = run("fsck", "-n", image)
    assert output.count(b"dir-type") >= len(NAMES)
    assert b"[red]markup[bold] [link=x]y" in output, "markup is text"
    assert b"%s%n %(name)s {0.__class__} {}" in output
    assert b"esc\\x1b[2J" in output
    assert_harmless(output)
    document = run("fsck", "-n", image, "--json")
    assert_harmless(document)
    json.loads(document)
    assert_harmless(run("fsck", "-y", image))


def test_fsck_prints_names_of_attributes(image_dir: Path) -> None:
    path = image_dir / "hostile.img"
    Volume.format(path, 64 << 20)
    with Volume.open(path) as volume:
        for name in NAMES:
            volume.setxattr(volume.create(ROOT_INO, name, REGULAR).ino, b"user." + name, b"v")
        pages = [volume.lookup(ROOT_INO, name).xattr * PAGE_BYTES for name in NAMES]
    with open(path, "r+b") as file:
        for start in pages:
            file.seek(start)
            page = bytearray(file.read(PAGE_BYTES)).replace(b"user.", b"evil.")
            summed = page[:12] + page[XATTR_PAGE.size_bytes : XATTR_PAGE.unpack(page)["used_bytes"]]
            at = XATTR_PAGE.offset_of["checksum"]
            page[at : at + 4] = zlib.crc32(summed).to_bytes(4, "little")
            file.seek(start)
            file.write(page)
    output = run("fsck", "-n", path)
    assert output.count(b"xattr-name") == len(NAMES)
    assert b"'evil.%s%n %(name)s {0.__class__} {}'" in output
    assert_harmless(output)
    assert_harmless(run("fsck", "-n", path, "--json"))
    assert_harmless(run("fsck", "-y", path))


def test_on_a_terminal(image: Path) -> None:
    for view in ("super", "usage", "extents"):
        assert_harmless(on_terminal("inspect", view, image))
    for name in NAMES:
        assert_harmless(on_terminal("inspect", "file", image, os.fsdecode(b"/" + name)))
    output = on_terminal("inspect", "file", image, os.fsdecode(b"/" + NAMES[5]))
    assert b"[red]markup[bold] [link=x]y" in output, "markup is text"
    damage(image)
    output = on_terminal("fsck", "-n", image)
    assert b"[red]markup[bold]" in output
    assert_harmless(output)


def test_the_label_is_printed_escaped(image: Path) -> None:
    output = run("inspect", "super", image)
    assert b"la\\u202ebel[red]" in output
    assert_harmless(output)


def test_an_image_with_a_hostile_name(image_dir: Path) -> None:
    for number, name in enumerate(NAMES):
        path = os.fsencode(image_dir) + b"/%d " % number + name
        for output in (
            run("mkfs", path, "--size", "64M"),
            run("mkfs", path, "--size", "64M"),  # exists
            run("fsck", path),
            run("inspect", "usage", path),
            run("inspect", "super", path, "--json"),
        ):
            assert output
            assert_harmless(output)


def test_the_log_keeps_a_message_on_its_line() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(daemon._Formatter(daemon._FORMAT))
    logger = logging.Logger("pmemfs.test")
    logger.addHandler(handler)
    for name in NAMES:
        logger.error("%s", PmemfsError(5, os.fsdecode(name)))
        logger.error(os.fsdecode(name))
    text = stream.getvalue()
    assert len(text.splitlines()) == 2 * len(NAMES)
    assert_harmless(text.encode("utf-8", "backslashreplace"))
    assert "%s%n %(name)s {0.__class__} {}" in text
