from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fsck_image import HandImage, golden


@pytest.fixture
def image(image_dir: Path) -> Iterator[HandImage]:
    """A clean hand-built image with one of everything."""
    hand = golden(image_dir / "disk.img")
    yield hand
    hand.close()
