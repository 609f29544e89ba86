"""Every operation of the Volume, crashed at every store. See `crash_run` for what is asked, and
for how to replay a failure: ``PMEMFS_CRASH_REPLAY=CASE/STATE pytest tests/crash``.
"""

from __future__ import annotations

import pytest
from crash_cases import CASES
from crash_run import REPLAY, Case, Crasher, record


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_crash(case: Case) -> None:
    if REPLAY and REPLAY.partition("/")[0] != case.name:
        pytest.skip("another case is replayed")
    crasher = Crasher(record(case))
    crasher.run()
    print(crasher.checked, "states")
    assert not crasher.failures, "\n".join(
        [
            f"{len(crasher.failures)} states fail; replay with PMEMFS_CRASH_REPLAY=",
            *crasher.failures,
        ]
    )
    assert crasher.checked
