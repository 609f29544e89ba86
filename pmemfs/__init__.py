"""pmemfs: a file system on emulated persistent memory with one page descriptor per 2 MiB."""

__version__ = "0.1.0"
