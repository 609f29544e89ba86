"""Numbers as options: what is none, or can mean nothing, is refused in a sentence."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pmemfs.cli import main


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("bench ageing --overwrites nan", "--overwrites"),
        ("bench ageing --minutes nan", "--minutes"),
        ("bench ageing --seed -1", "--seed"),
        ("bench ageing --size " + "9" * 400, "--size"),
        ("bench descriptors --split nan", "--split"),
        ("bench descriptors --run nan", "--run"),
        ("bench descriptors --budget nan", "--budget"),
        ("bench descriptors --seed -1", "--seed"),
        ("bench descriptors --most " + "9" * 400, "--most"),
        ("inspect top disk.img --interval nan", "--interval"),
        ("trace record /mnt -o t --seconds nan", "--seconds"),
        ("mkfs disk.img --size " + "9" * 400, "--size"),
    ],
)
def test_what_is_no_number(words: str, option: str) -> None:
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.stderr
