"""The file system proper: inodes, file maps, directories, and the `Volume` in front of them."""

from pmemfs.fs.inodes import Inode
from pmemfs.fs.volume import Options, Volume

__all__ = ["Inode", "Options", "Volume"]
