"""Look into an image, mounted or not, without the engine's code and without writing.

Each view is a function from a `Reader` to a JSON-ready dict of raw integers; `collect` takes
one while the image may be changing. For example::

    with Reader("disk.img") as reader:
        print(collect(reader, usage)["extents"]["free"])
"""

from pmemfs.inspect.collect import collect
from pmemfs.inspect.extent import extent
from pmemfs.inspect.extents import extents
from pmemfs.inspect.file import file
from pmemfs.inspect.free import free
from pmemfs.inspect.journal import journal
from pmemfs.inspect.map import device_map
from pmemfs.inspect.page import page
from pmemfs.inspect.reader import Reader
from pmemfs.inspect.superblock import superblock
from pmemfs.inspect.usage import usage
from pmemfs.inspect.wear import wear

__all__ = [
    "Reader",
    "collect",
    "device_map",
    "extent",
    "extents",
    "file",
    "free",
    "journal",
    "page",
    "superblock",
    "usage",
    "wear",
]
