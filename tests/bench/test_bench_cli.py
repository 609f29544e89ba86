from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pmemfs.bench import fio
from pmemfs.cli import main
from pmemfs.units import MIB

needs_fio = pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fio, "QUICK", fio.FioScale(runtime_s=0.05, file_bytes=MIB))


def test_help_has_examples() -> None:
    result = CliRunner().invoke(main, ["bench", "io", "--help"])
    assert result.exit_code == 0
    assert "pmemfs bench io /mnt --quick" in result.output


def test_no_directory(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", "io", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_unknown_job(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", "io", str(tmp_path), "--only", "sideways"])
    assert result.exit_code == 2
    assert "no job is called 'sideways'" in result.stderr


def test_fio_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(main, ["bench", "io", str(tmp_path), "--quick"])
    assert result.exit_code == 1
    assert result.stderr == ("pmemfs: fio is missing: install it (Debian: apt-get install fio)\n")


def test_list(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", "io", str(tmp_path), "--list", "--only", "*fsync*"])
    assert result.stdout == "randwrite-4k-fsync-warm\nwrite-4k-fsync-fresh\n"


@needs_fio
def test_table(tmp_path: Path) -> None:
    words = ["bench", "io", str(tmp_path), "--quick", "--only", "randrw-4k-buffered-d1-j1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["job", "IOPS", "MiB/s", "mean", "µs", "p99", "µs"]
    assert lines[1].split()[0] == "randrw-4k-buffered-d1-j1"
    assert result.stderr == "1/1 randrw-4k-buffered-d1-j1\n"
    assert not list(tmp_path.iterdir())


@needs_fio
def test_json(tmp_path: Path) -> None:
    words = ["bench", "io", str(tmp_path), "--quick", "--json", "--only", "write-4k-fsync-fresh"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["directory"] == str(tmp_path)
    assert data["jobs"][0]["name"] == "write-4k-fsync-fresh"
    assert data["jobs"][0]["iops"] > 0


@needs_fio
@pytest.mark.slow
def test_whole_quick_set(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bench", "io", str(tmp_path), "--quick", "--json"])
    jobs = json.loads(result.stdout)["jobs"]
    assert [job["name"] for job in jobs] == [job.name for job in fio.JOBS if job.quick]
    assert [job for job in jobs if job["error"]] == []
