from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "mount"))
pytest.register_assert_rewrite("mount_run", "torture_model")
