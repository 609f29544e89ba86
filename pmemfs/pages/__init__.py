"""Extents and their head descriptors, page allocation, split tables."""

from pmemfs.pages.arenas import Arena
from pmemfs.pages.descriptors import SplitTables
from pmemfs.pages.extents import ExtentPool

__all__ = ["Arena", "ExtentPool", "SplitTables"]
