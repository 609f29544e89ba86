"""Commands whose image is cut short under them: a sentence each, not only a signal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pmemfs.fs import Volume
from pmemfs.layout.geometry import CONTROL_OFFSET
from pmemfs.layout.records import CONTROL, MountState

SIZE, LEFT = 64 << 20, 4096

COMPACT = """
from pmemfs.cli import compact
from pmemfs.fs import Volume

class Cut(compact.Reclaimer):
    def compact(self):
        os.truncate(IMAGE, LEFT)
        super().compact()

compact.Reclaimer = Cut
compact.compact_command([IMAGE])
"""

MOUNT = """
from pmemfs import fsck
from pmemfs.cli import mount

check = fsck.check

def cut(image):
    os.truncate(IMAGE, LEFT)
    return check(image)

fsck.check = cut
mount.mount_command([IMAGE, os.path.dirname(IMAGE)])
"""


@pytest.mark.parametrize("name", ["compact", "mount"])
def test_an_image_cut_short_ends_with_a_sentence(tmp_path: Path, name: str) -> None:
    image = tmp_path / "disk.img"
    Volume.format(image, SIZE)
    with open(image, "r+b") as file:  # so that a mount checks it first
        file.seek(CONTROL_OFFSET)
        control = CONTROL.unpack(file.read(CONTROL.size_bytes))
        if name == "mount":
            file.seek(CONTROL_OFFSET)
            file.write(CONTROL.pack(**{**control, "state": MountState.DAMAGED}))
    program = f"import os\nIMAGE, LEFT = {str(image)!r}, {LEFT}\n"
    program += {"compact": COMPACT, "mount": MOUNT}[name]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]  # the engine may have logged that it found damage
    assert f"cut short to {LEFT} of {SIZE} bytes while in use; {name} ends" in last
    assert "Traceback" not in done.stderr
    assert os.path.getsize(image) == LEFT
