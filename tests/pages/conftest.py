"""The layer of pages alone: an image, its journal and an extent pool, no file system above."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_layer import PageLayer
from volumes import ManualClock


@pytest.fixture
def layer(image_dir: Path, clock: ManualClock) -> Iterator[PageLayer]:
    """A fresh image of 64 MiB, opened at the layer of pages."""
    layer = PageLayer(image_dir / "pages.img", clock)
    yield layer
    layer.validate()
    layer.close()
