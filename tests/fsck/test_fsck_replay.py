"""What a crashed repair prints when it fails brings the same state, and its failure, back."""

from __future__ import annotations

from pathlib import Path

import fsck_crash
import fsck_replay
import pytest
from click.testing import CliRunner
from fsck_crash import record_damage
from fsck_replay import BY_NAME, states_of
from test_fsck_crash import CASES, names_gone
from test_fsck_damage import DAMAGES, map_node_that_has_lost_its_words


def test_every_damage_has_a_name_of_its_own() -> None:
    assert len(BY_NAME) == len(CASES) + len(DAMAGES)


def test_an_id_brings_its_state_back(image_dir: Path) -> None:
    mended = record_damage(image_dir / "disk.img", names_gone)
    for state in list(mended.states(1))[::9]:
        found = states_of(f"fsck:names_gone@1/{state.id}")[2]
        assert [each.digest() for each in found] == [state.digest()]


def test_replay_without_a_state_asks_all() -> None:
    state_id = f"fsck:{map_node_that_has_lost_its_words.__name__}@1/"
    result = CliRunner().invoke(fsck_replay.main, [state_id])
    assert (result.exit_code, result.output) == (0, f"{state_id}: all states pass\n")


@pytest.mark.parametrize("state_id", ["fsck:nothing@1/0.all.0", "fsck:names_gone@1/99.all.0", "x"])
def test_what_is_no_state_is_told(state_id: str) -> None:
    result = CliRunner().invoke(fsck_replay.main, [state_id])
    assert result.exit_code == 2
    assert f"there is no state {state_id}" in result.output


def test_a_failure_prints_the_id_that_replays_it(
    image_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that no repair brings back makes every state fail."""
    mended = record_damage(image_dir / "disk.img", names_gone)
    mended.whole = {b"/lost": {"mode": 0}}
    state = list(mended.states(1))[10]
    with pytest.raises(AssertionError) as failure:
        mended.validate(state, 1)
    (note,) = failure.value.__notes__
    assert note == f"make replay ID=fsck:names_gone@1/{state.id}"
    state_id = note.partition("=")[2]
    trees = iter([mended.whole, {}])
    monkeypatch.setattr(fsck_crash, "tree_of", lambda path: next(trees))
    result = CliRunner().invoke(fsck_replay.main, [state_id])
    assert result.exit_code == 1
    assert note in result.output
    assert "AssertionError" in result.output
