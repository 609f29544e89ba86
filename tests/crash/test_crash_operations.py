"""Every operation of the Volume, crashed at every store. See `crash_run` for what is asked, and
for how to replay a failure: ``PMEMFS_CRASH_REPLAY=CASE/STATE pytest tests/crash``.
"""

from __future__ import annotations

import pytest
from crash_cases import CASES
from crash_run import REPLAY, SAMPLES, Case, Crasher, record

CHANGE_NOTHING = {"rename-same-inode", "allocate-existing", "preallocate-same-page"}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
def test_crash(case: Case) -> None:
    crash(case, SAMPLES)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_case
def test_crash_more(case: Case) -> None:
    crash(case, 8 * SAMPLES)


def crash(case: Case, samples: int) -> None:
    if REPLAY and REPLAY.partition("/")[0] != case.name:
        pytest.skip("another case is replayed")
    crasher = Crasher(record(case))
    crasher.run(samples)
    print(crasher.checked, "states")
    assert not crasher.failures, "\n".join(
        ["replay with PMEMFS_CRASH_REPLAY=", *crasher.failures],
    )
    if not REPLAY:
        assert (crasher.checked == 1) == (case.name in CHANGE_NOTHING)
