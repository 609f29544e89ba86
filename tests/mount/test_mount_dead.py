"""A dead mount: whatever is given a path on it says so in a sentence, with what to run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mount_run import NEEDS_MOUNT, Mounted, run_here, scratch

from pmemfs.fs import Volume

pytestmark = NEEDS_MOUNT
SENTENCE = (
    "pmemfs: a dead mount is in the way on {0} (its daemon has gone): "
    "remove it with pmemfs umount {0} (or fusermount3 -u {0})\n"
)


@pytest.fixture(scope="module")
def dead() -> Iterator[Mounted]:
    with scratch() as folder:
        one = Mounted(folder)
        Volume.format(folder / "other.img", 64 << 20)
        (folder / "free").mkdir()
        one.mount()
        list(one.directory.iterdir())
        one.kill()
        try:
            yield one
        finally:
            run_here("umount", one.directory)


def given(words: str, dead: Mounted) -> list[str]:
    """Return the words with MNT, IMAGE and DIR as paths."""
    names = {"MNT": dead.directory, "IMAGE": dead.image, "DIR": dead.directory.parent}
    for name, path in names.items():
        words = words.replace(name, str(path))
    return words.split()


@pytest.mark.parametrize(
    "words",
    [
        *(
            f"inspect {view} MNT"
            for view in ("usage", "map", "wear", "top", "super", "extents", "free", "journal")
        ),
        "inspect extent MNT 3",
        "inspect page MNT 3",
        "inspect file MNT /x",
        "inspect usage MNT/below/disk.img --json",
        "inspect map IMAGE --png MNT/x.png",
        "trace record MNT -o DIR/t",
        "trace record IMAGE -o DIR/t",
        "trace record IMAGE -o MNT/t",
        "trace show MNT/t",
        "compact MNT",
        "compact IMAGE",
        "compact MNT/disk.img",
        "mkfs MNT --size 64M",
        "mkfs MNT/disk.img --size 64M --force",
        "mount DIR/other.img MNT",
        "mount DIR/other.img MNT/below",
        "mount MNT/disk.img DIR/free",
        "mount DIR/other.img DIR/free --log MNT/log",
        "bench io MNT",
        "bench io MNT/below",
        "bench descriptors --quick --dir MNT",
        "bench descriptors --quick --trace MNT/t",
        "bench descriptors --quick --plots MNT/pictures",
        "bench ageing --png MNT/x.png",
    ],
)
def test_every_command_says_what_to_run(dead: Mounted, words: str) -> None:
    done = run_here(*given(words, dead), check=False)
    assert (done.stdout, done.stderr) == ("", SENTENCE.format(dead.directory))
    assert done.returncode == 1
    assert not (dead.directory.parent / "t").exists()


@pytest.mark.parametrize("words", ["fsck -n MNT", "fsck -y MNT", "fsck -p MNT/disk.img --json"])
def test_fsck_ends_with_the_status_of_what_cannot_be_checked(dead: Mounted, words: str) -> None:
    done = run_here(*given(words, dead), check=False)
    assert (done.stdout, done.stderr) == ("", SENTENCE.format(dead.directory))
    assert done.returncode == 8


def test_the_image_of_a_dead_mount_can_be_looked_into(dead: Mounted) -> None:
    assert "Extents of 2 MiB" in run_here("inspect", "usage", dead.image).stdout
    assert run_here("fsck", "-n", dead.image).returncode == 0
