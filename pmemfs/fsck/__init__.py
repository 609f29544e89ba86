"""The checker and its repairs: every rule of FORMAT.md, held against one unmounted image.

It reads through `pmemfs.image` and below, and shares no code with the engine that it checks.
Start reading at `pmemfs.fsck.passes`, which has the order of the passes, then `repair`.
"""

from pmemfs.fsck.apply import NO_HOST
from pmemfs.fsck.draft import Decide, Repair, Risk
from pmemfs.fsck.passes import check
from pmemfs.fsck.repair import Plan, everything, only_safe, repair
from pmemfs.fsck.report import Finding, Report

__all__ = [
    "NO_HOST",
    "Decide",
    "Finding",
    "Plan",
    "Repair",
    "Report",
    "Risk",
    "check",
    "everything",
    "only_safe",
    "repair",
]
