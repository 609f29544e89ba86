import pytest
from hand_built import HandBuilt

from pmemfs.inspect import Reader, collect


@pytest.fixture
def built(tmp_path):
    image = HandBuilt(tmp_path / "disk.img")
    yield image
    image.close()


@pytest.fixture
def look(built):
    """Take a view of the hand-built image: ``look(view, argument, ...)``."""

    def look(view, *arguments, **options):
        with Reader(built.path) as reader:
            return collect(reader, lambda reader: view(reader, *arguments, **options))

    return look
