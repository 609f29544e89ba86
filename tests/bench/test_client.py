"""The client's phases on an ordinary directory; what they time is not looked at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pmemfs.bench import client, workloads
from pmemfs.bench.process import CommandError
from pmemfs.bench.workloads import FilesWorkload, SqliteWorkload, TreeWorkload, run_client


def measured(workload: workloads.ClientWorkload) -> set[str]:
    return {measure.name for measure in workload.measures}


def test_files(tmp_path: Path) -> None:
    found: set[str] = set()
    for phase in FilesWorkload.phases:
        figures = run_client(phase, tmp_path, "20")
        assert all(value > 0 for value in figures.values())
        found |= figures.keys()
    assert found == measured(FilesWorkload())
    assert not list((tmp_path / "files").iterdir())


def test_sqlite(tmp_path: Path) -> None:
    figures = run_client("sqlite", tmp_path, "30")
    assert figures.keys() == measured(SqliteWorkload())


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library"
    (library / "test").mkdir(parents=True)
    (library / "module.py").write_text("raise ZeroDivisionError\n")
    (library / "test" / "test_module.py").write_text("")
    monkeypatch.setattr(workloads.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    tarball = workloads.make_tarball(tmp_path, with_tests=False)
    home = tmp_path / "home"
    home.mkdir()
    figures = run_client("tree-fill", home, str(tarball))
    assert (home / "copy" / "module.py").exists()
    assert not (home / "copy" / "test").exists()
    figures |= run_client("tree-cold", home, str(tarball))
    assert figures.keys() == measured(TreeWorkload())
    assert not list(home.iterdir())


def test_failure_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="FileNotFoundError"):
        run_client("files-list-cold", tmp_path, "20")


def test_orders_are_the_same_each_time() -> None:
    assert client.shuffled(50) == client.shuffled(50)
    assert sorted(client.shuffled(50)) == client.names(50)
