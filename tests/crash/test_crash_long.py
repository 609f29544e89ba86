"""The long run and the replay, in small: figures, going on after a kill, ids that come back."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import crash_damage
import crash_long
import crash_oracle
import crash_replay
import pytest
from click.testing import CliRunner, Result
from crash_bug import patched
from crash_case import record
from crash_damage import check_damaged_journal
from crash_long import Ledger, run_unit
from crash_names import BY_NAME, recording_of, state_of
from crash_oracle import Crasher, Oracle
from crash_sequences import STEPS, Step, pair_names, record_sequence

from pmemfs.fs import volume


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.close()


def run(directory: Path, *arguments: str) -> Result:
    common = ["--directory", str(directory), "--samples", "1", "--jobs", "1"]
    return CliRunner().invoke(crash_long.main, [*common, *arguments], catch_exceptions=False)


def figure(output: str, name: str) -> int:
    found = re.search(rf"{name}: +([\d,]+)", output)
    assert found, output
    return int(found[1].replace(",", ""))


def test_it_prints_figures_and_goes_on(tmp_path: Path) -> None:
    first = run(tmp_path, "--states", "100")
    assert first.exit_code == 0, first.output
    states = figure(first.output, "distinct before recovery")
    assert states >= 100
    assert 1 < figure(first.output, "distinct outcomes") < states
    assert figure(first.output, "failures") == 0
    assert "going on" not in first.output
    again = run(tmp_path, "--states", "100")
    assert f"going on: 1 units, {states:,} states done" in again.output
    assert figure(again.output, "distinct before recovery") == states
    assert "going on" not in run(tmp_path, "--states", "1", "--fresh").output


def test_random_sequences_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_long, "RANDOM_BATCH", 1)
    result = run(tmp_path, "--no-pairs", "--states", "100")
    assert figure(result.output, "random sequences") >= 1
    assert "ordered pairs:            0 of" in result.output


def test_a_unit_that_was_being_written_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash_long, "RANDOM_BATCH", 3)
    ledger = Ledger(tmp_path, "run")
    units = [run_unit((name, 1)) for name in ("random:1.0", "random:1.20")]
    for unit in units:
        ledger.add(unit, 0.0)
    assert not ledger.failures
    whole = ledger.digests.read_bytes()
    ledger.digests.write_bytes(whole[:-8])
    ledger.lines.write_text(ledger.lines.read_text() + '{"name": "rand')
    again = Ledger(tmp_path, "run")
    assert list(again.done) == ["random:1.0"]
    assert again.states == set(units[0].states)
    again.add(units[1], 0.0)
    assert again.digests.read_bytes() == whole
    assert Ledger(tmp_path, "run").states == ledger.states


def test_random_sequences_are_the_same_for_the_same_seed() -> None:
    one, two = recording_of("random:5.1"), recording_of("random:5.1")
    assert one.events == two.events
    assert one.events != recording_of("random:5.2").events


@pytest.mark.parametrize("first", STEPS, ids=lambda step: step.name)
def test_some_pairs(first: Step, oracle: Oracle) -> None:
    """A few of those that the long run takes all of."""
    for name in random.Random(first.name).sample(pair_names(first.name), 4):
        recording = record_sequence(name)
        if recording is not None:
            crasher = Crasher(recording, oracle, name=name)
            crasher.run(2)
            assert not crasher.failures, "\n".join(["make replay ID=", *crasher.failures])


@pytest.mark.parametrize("name", ["create", "pair:overwrite-foo+fsync-foo", "mount-unclean"])
def test_an_id_brings_its_state_back(name: str) -> None:
    for state in list(recording_of(name).states(2))[::20]:
        assert state_of(f"{name}@2/{state.id}")[1].digest() == state.digest()


def replay(state_id: str) -> Result:
    return CliRunner().invoke(crash_replay.main, [state_id])


def test_replay() -> None:
    state_id = "rename-other-directory@2/2.none.0"
    result = replay(state_id)
    assert result.exit_code == 0, result.output
    assert "the state passes" in result.output
    with patched(volume, "recover", lambda device: None):
        result = replay(state_id)
        whole = replay("rename-other-directory@2/")
    assert result.exit_code == whole.exit_code == 1
    assert "no allowed tree" in result.output
    assert "no allowed tree" in whole.output
    assert "all states pass" in replay("rename-other-directory@2/").output


@pytest.mark.parametrize(
    "state_id",
    ["nothing@2/0.none.0", "create", "create@2", "create@2/9.all.0", "damaged-journal:create/x"],
)
def test_no_such_state(state_id: str) -> None:
    result = replay(state_id)
    assert result.exit_code == 2
    assert "there is no state" in result.output


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("refused by the test")


@pytest.mark.parametrize(
    "name",
    [
        "create",
        "disk:overwrite-twice-fsync",
        "life:cache-abandon+disk-close",
        "mkfs",
        "mount-unclean",
        "mount:reuse-inode",
        "mount:reuse-inode@2/2.none.0",
        "pair:overwrite-foo+fsync-foo",
        "disk:random:3.power",
    ],
)
def test_a_failure_has_an_id_that_brings_it_back(name: str) -> None:
    with patched(crash_oracle, "require_clean", refuse):
        oracle = Oracle()
        crasher = Crasher(recording_of(name), oracle, name=name)
        crasher.run(2)
        oracle.close()
        state_id, _, reason = crasher.failures[0].partition(": AssertionError: ")
        assert reason == "refused by the test"
        assert state_id.startswith(f"{name}@2/")
        result = replay(state_id)
        assert result.exit_code == 1
        assert reason in result.output
    assert replay(state_id).exit_code == 0


@pytest.mark.parametrize(
    "asked", ["require_recovery_twice_is_once", "require_mounts_change_nothing"]
)
def test_replay_asks_what_is_asked_of_some(asked: str) -> None:
    with patched(crash_replay, asked, refuse):
        assert "refused by the test" in replay("unlink-long@2/2.none.0").output


def test_a_damaged_bit_that_nobody_sees_has_an_id() -> None:
    with patched(crash_damage, "_is_refused", lambda path, options: False):
        with pytest.raises(AssertionError) as found:
            check_damaged_journal(recording_of("create"))
        state_id = str(found.value).partition(": ")[0]
        result = replay(state_id)
    assert result.exit_code == 1
    assert "the bit is not seen" in result.output
    assert replay(state_id).exit_code == 0


@pytest.mark.parametrize("name", ["append-across-page", "rename-over-held", "write-whole-new"])
def test_equal_outcomes_show_equal_trees(name: str) -> None:
    """What the oracle remembers is what it would find: here it forgets everything each time."""
    recording = record(BY_NAME[name])
    trees = {}
    for state in list(recording.states(2)):
        oracle = Oracle()
        key, tree = oracle.tree(state, recording)
        oracle.close()
        assert trees.setdefault(key, tree) == tree, state.id
    crasher = Crasher(recording, Oracle())
    crasher.run(2)
    assert crasher.outcomes == trees.keys()
