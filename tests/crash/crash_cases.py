"""Every operation of the Volume with its interesting arguments.

The names say what is special. A case is small: few pages, so that most of its epochs are
enumerated whole. ``threshold_pages`` is 1 where whole extents are wanted for one page of data.
"""

from __future__ import annotations

import cases_access
import cases_data
import cases_moves
import cases_names
import cases_space
from crash_calls import CASES

__all__ = ["CASES", "cases_access", "cases_data", "cases_moves", "cases_names", "cases_space"]

assert len({case.name for case in CASES}) == len(CASES)
