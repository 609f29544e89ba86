"""The daemon killed in the midst of work: a short run of `torture_run` with each front end and
cache mode, and that it sees what is lost. The long one is ``make torture``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from mount_run import NEEDS_MOUNT, scratch
from torture_model import PAGE, FileModel, Found, LostError, TreeModel
from torture_run import CACHES, Life, Tally, main, settings_of, torture
from torture_work import Call, Setting, acknowledge, interrupted

from pmemfs.fuse import mounts

A, B = b"A" * PAGE, b"B" * PAGE
SHORT = [
    Setting(frontend, cache, ("cache", "disk")[number % 2])
    for frontend, caches in CACHES.items()
    for number, cache in enumerate(caches)
]


def found(data: bytes) -> Found:
    return Found("file", 0o644, 1, data)


@pytest.fixture
def file() -> FileModel:
    file = FileModel()
    file.write(0, A + A, lasting=True)
    return file


# -- the model ----------------------------------------------------------------------------------


def test_what_lasts_may_be_found_in_one_state_only(file: FileModel) -> None:
    assert file.problem(found(A + A)) is None
    for wrong in (A, A + A + b"\0", A + b"A" * (PAGE - 1) + b"B", b""):
        assert file.problem(found(wrong)) is not None


def test_pages_not_synced_are_old_or_new(file: FileModel) -> None:
    file.write(0, B + B, lasting=False)
    file.write(PAGE, b"C" * 8, lasting=False)
    for page in (A, B, b"C" * 8 + B[8:]):
        assert file.problem(found(A + page)) is None
        assert file.problem(found(B + page)) is None
    assert "page 0 differs" in str(file.problem(found(b"C" * 8 + A[8:] + B)))
    assert file.problem(found(A[:8] + B[8:] + B)) is None  # killed in the midst of a store
    assert file.problem(found(A[:4] + B[4:] + B)) is not None
    file.sync()
    assert file.problem(found(B + B)) is not None


def test_sizes_not_synced_are_those_in_between(file: FileModel) -> None:
    file.write(2 * PAGE + 10, B + b"C" * 20, lasting=False)
    full = bytes(file.data)
    for size in (2 * PAGE, 3 * PAGE, 3 * PAGE + 10, 3 * PAGE + 30):
        assert file.problem(found(full[:size])) is None, size
    for size in (PAGE, 2 * PAGE + 5, 3 * PAGE + 31):
        assert file.problem(found(full.ljust(size, b"\0")[:size])) is not None, size


def test_a_truncation_lasts_and_what_it_cut_is_gone(file: FileModel) -> None:
    file.write(0, B + B, lasting=False)
    file.truncate(PAGE + 8)
    file.truncate(2 * PAGE)
    for page in (A, B):
        assert file.problem(found(A + page[:8].ljust(PAGE, b"\0"))) is None
        assert file.problem(found(B + page)) is not None


def test_a_call_cut_off_is_there_or_not() -> None:
    tree = TreeModel()
    for call in (Call("create", "a"), Call("create", "b"), Call("mkdir", "d")):
        acknowledge(call, tree, lasting=True)
    after, before = interrupted(Call("replace", "a", "b"), tree)
    directory = Found("directory", 0o755, 2)
    both = {"a": found(b""), "b": found(b""), "d": directory}
    assert before.problem(both) is None
    assert "not expected: ['a']" in str(after.problem(both))
    assert after.problem({"b": found(b""), "d": directory}) is None
    assert "missing: ['a']" in str(before.problem({"b": found(b""), "d": directory}))


# -- on real mounts -----------------------------------------------------------------------------


@pytest.mark.mount
class TestOnMounts:
    pytestmark = NEEDS_MOUNT

    @pytest.mark.parametrize("setting", SHORT, ids=lambda setting: setting.name)
    def test_nothing_is_lost(self, setting: Setting, tmp_path: Path) -> None:
        tally = Tally()
        torture(setting, 2, "short", tally, keep=tmp_path / "kept")
        assert tally.rounds == 2
        assert tally.bytes
        assert tally.calls > 50

    def test_what_is_lost_is_seen_and_kept(self, tmp_path: Path) -> None:
        """Writeback loses what was not synced; to take it for writethrough must fail."""

        @dataclass(frozen=True)
        class Mistaken(Setting):
            lasting = True

        setting = Mistaken("native", "writeback", "cache")
        with pytest.raises(LostError, match=r"w\d: ") as info:
            torture(setting, 12, "mistaken", Tally(), keep=tmp_path)
        assert "kept in" in str(info.value)
        assert {path.name for path in tmp_path.iterdir()} >= {"killed.img", "round.json"}

    def test_an_interruption_leaves_nothing_behind(self, tmp_path: Path) -> None:
        def stop(text: str) -> None:
            raise KeyboardInterrupt

        with scratch("pmemfs-torture-") as folder:
            life = Life(SHORT[0], "stop", folder, Tally())
            with pytest.raises(KeyboardInterrupt):
                life.run(2, stop)
            assert mounts.find_mount(str(folder / "mnt")) is None
            assert not mounts.lock_holders(str(folder / "disk.img"))
            assert all(not worker.pid for worker in life.workers)


def test_settings() -> None:
    assert len(settings_of("all", "all", "all")) == 10
    assert settings_of("fusepy", "writeback", "all") == []
    assert settings_of("native", "writeback", "disk") == [Setting("native", "writeback", "disk")]


def test_help() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert "make torture" in done.output
    done = CliRunner().invoke(main, ["--frontend", "fusepy", "--cache", "writeback"])
    assert done.exit_code == 2
    assert "fusepy has no cache=writeback" in done.output
