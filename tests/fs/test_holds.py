"""How often each inode is held."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from pmemfs.errors import InvariantError
from pmemfs.fs.holds import Holds


def test_counts_are_those_of_a_dictionary() -> None:
    chance, holds, model = Random(1), Holds(), Counter[int]()
    numbers = [1, 2, 8191, 8192, 8193, 1 << 20, (1 << 32) - 1]
    for _ in range(2000):
        ino, count = chance.choice(numbers), chance.randrange(1, 4)
        if chance.random() < 0.5:
            holds.add(ino, count)
            model[ino] += count
        elif model[ino] >= count:
            model[ino] -= count
            assert holds.drop(ino, count) == (not model[ino])
        assert [holds[n] for n in numbers] == [model[n] for n in numbers]
        assert (ino in holds) == bool(model[ino])
        assert sorted(holds) == sorted(+model)
        assert len(holds) == len(+model)


def test_nothing_is_kept_for_what_is_not_held() -> None:
    holds = Holds()
    for ino in range(1, 100_000, 7):
        holds.add(ino)
    for ino in range(1, 100_000, 7):
        holds.drop(ino)
    assert not len(holds)
    assert not holds._counts


def test_letting_go_too_often() -> None:
    holds = Holds()
    holds.add(5)
    with pytest.raises(InvariantError, match="inode 5"):
        holds.drop(5, 2)
    assert holds[5] == 1
