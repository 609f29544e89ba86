"""Every operation of a volume with ``persist=disk``, through every power loss of the host.

The states are those of `PowerStates`: the pages of the image as the host may have written them.
The oracle is that of `crash_oracle`, unchanged: what an operation promised to be durable is on the
disk. ``make replay ID=disk:...`` brings a failure back.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from crash_case import SAMPLES
from crash_cases import CASES
from crash_names import recording_of
from crash_oracle import Crasher, Oracle
from crash_sequences import STEPS

QUICK = max(1, SAMPLES // 8)
NAMES = [f"disk:{case.name}" for case in CASES]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.close()


def assert_survives(name: str, oracle: Oracle, samples: int) -> Crasher:
    crasher = Crasher(recording_of(name), oracle, name=name)
    crasher.run(samples)
    print(len(crasher.found), "states,", len(crasher.outcomes), "outcomes")
    assert not crasher.failures, "\n".join(["make replay ID=", *crasher.failures])
    return crasher


@pytest.mark.parametrize("name", NAMES)
def test_power_loss(name: str, oracle: Oracle) -> None:
    assert_survives(name, oracle, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_power_loss_more(name: str, oracle: Oracle) -> None:
    assert_survives(name, oracle, 4 * SAMPLES)


# -- several operations in a row: what one leaves pending meets the next ------------------------


@pytest.mark.parametrize("seed", range(12))
def test_power_loss_in_a_row_of_operations(seed: int, oracle: Oracle) -> None:
    assert_survives(f"disk:random:{seed}.power", oracle, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", [step.name for step in STEPS])
def test_power_loss_in_pairs(first: str, oracle: Oracle) -> None:
    for second in STEPS:
        try:
            assert_survives(f"disk:pair:{first}+{second.name}", oracle, QUICK)
        except KeyError:  # not possible behind the first
            continue


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 200))
def test_power_loss_in_more_rows_of_operations(seed: int, oracle: Oracle) -> None:
    assert_survives(f"disk:random:{seed}.power", oracle, SAMPLES)


# -- mounts: what the image says of itself is so ------------------------------------------------

LIVES = [
    f"life:{first}-{end}+{second}-close"
    for first in ("cache", "disk")
    for end in ("close", "abandon")
    for second in ("cache", "disk")
]


@pytest.mark.parametrize("name", LIVES)
def test_a_trusted_image_can_be_trusted(name: str, oracle: Oracle) -> None:
    crasher = assert_survives(name, oracle, QUICK)
    trusted = len(crasher.found) - crasher.refused
    print(trusted, "trusted")
    assert trusted >= (20 if "disk" in name else 3)
