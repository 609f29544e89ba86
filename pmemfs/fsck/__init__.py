"""The read-only checker: every rule of FORMAT.md, held against one unmounted image.

It reads through `pmemfs.image` and below, and shares no code with the engine that it checks.
Start reading at `pmemfs.fsck.passes`, which has the order of the passes.
"""

from pmemfs.fsck.passes import check
from pmemfs.fsck.report import Finding, Report

__all__ = ["Finding", "Report", "check"]
