from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pmemfs.bench import peers
from pmemfs.bench.peers import Daemon, Peer, Site, all_peers, probe
from pmemfs.bench.process import CommandError, run
from pmemfs.bench.ratios import Kind, Measure
from pmemfs.bench.rounds import Plan, Results, run_rounds
from pmemfs.bench.workloads import QUICK, Outcome, Workload, all_workloads
from pmemfs.errors import PmemfsError


class DirectoryPeer(Peer):
    """A peer that mounts nothing, to run the rounds on."""

    summary = "a directory"

    def __init__(self, name: str, *, broken: bool = False) -> None:
        self.name = name
        self.broken = broken

    def missing(self) -> str | None:
        return None

    def make(self, home: Path, size_bytes: int) -> None:
        if self.broken:
            raise PmemfsError(5, "cannot be made")

    def mount(self, home: Path) -> Daemon | None:
        return None


class NoteWorkload(Workload):
    """Notes on which peer it ran, and in which order."""

    name = "note"
    summary = ""
    measures = (Measure("noted", "/s", Kind.OTHER),)

    def __init__(self) -> None:
        self.seen: list[str] = []

    def run(self, site: Site, scale: object, wanted: object) -> Outcome:
        self.seen.append(site.peer.name)
        return Outcome({"noted": float(len(self.seen))})


@pytest.fixture
def always_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Site, "_mount", lambda self: None)


def plan(workload: Workload, *chosen: Peer, rounds: int = 2) -> Plan:
    return Plan(chosen, [workload], {"noted"}, rounds, QUICK)


@pytest.mark.usefixtures("always_mounted")
def test_rounds_are_interleaved_and_start_with_another_peer(tmp_path: Path) -> None:
    workload, results = NoteWorkload(), Results({}, list(NoteWorkload.measures))
    told: list[str] = []
    made = plan(workload, DirectoryPeer("a"), DirectoryPeer("b"))
    run_rounds(made, results, tmp_path, told.append)
    assert workload.seen == ["a", "b", "b", "a"]
    assert results.samples["noted"] == {"a": {1: 1.0, 2: 4.0}, "b": {1: 2.0, 2: 3.0}}
    assert told[0] == "round 1/2: note on a"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("always_mounted")
def test_a_peer_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    results = Results({}, list(NoteWorkload.measures))
    made = plan(NoteWorkload(), DirectoryPeer("a", broken=True), DirectoryPeer("b"), rounds=1)
    run_rounds(made, results, tmp_path, lambda text: None)
    assert results.errors == ["round 1, a, note: cannot be made"]
    assert list(results.samples["noted"]) == ["b"]


def test_probe_says_why(tmp_path: Path) -> None:
    assert probe(DirectoryPeer("a", broken=True), tmp_path) == (
        "does not work here: cannot be made"
    )
    assert not list(tmp_path.iterdir())


def test_a_daemon_that_ends_at_once_is_told_of(tmp_path: Path) -> None:
    class EndingPeer(DirectoryPeer):
        def mount(self, home: Path) -> Daemon | None:
            return peers._start(home, sys.executable, "-c", "print('no such option')")

    why = probe(EndingPeer("a"), tmp_path)
    assert why == "does not work here: does not mount: no such option"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "package"),
    [("passthrough_ll", "pkg-config"), ("fuse2fs", "fuse2fs"), ("ext4-loop", "e2fsprogs")],
)
def test_what_to_install_is_named(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_missing_fuse", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    why = all_peers()[name].missing()
    assert why is not None
    assert "apt-get install" in why
    assert package in why


def test_measures_have_one_name_each() -> None:
    names = [measure.name for workload in all_workloads() for measure in workload.measures]
    assert len(set(names)) == len(names)


def test_a_program_that_fails_or_hangs() -> None:
    with pytest.raises(CommandError, match="status 3: bad luck"):
        run([sys.executable, "-c", "import sys; print('bad luck'); sys.exit(3)"])
    with pytest.raises(CommandError, match=r"did not end within 0\.2 s"):
        run(["sleep", "60"], timeout_s=0.2)


def test_the_script_lists_what_there_is() -> None:
    script = Path(__file__).parents[2] / "scripts" / "bench_peers.py"
    done = subprocess.run(
        [sys.executable, script, "--list", "--only", "tree", "--peers", "native"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "native" in done.stdout
    assert "git-status" in done.stdout
    wrong = subprocess.run(
        [sys.executable, script, "--only", "nothing"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "nothing is called 'nothing'" in wrong.stderr


@pytest.mark.parametrize("option", ["--png", "--json"])
def test_the_script_refuses_at_once_what_it_could_not_write(option: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "bench_peers.py"
    path = tmp_path / "none" / "x.png"
    done = subprocess.run(
        [sys.executable, script, "--quick", "--peers", "native", option, path],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    reason = f"there is no directory {tmp_path / 'none'}"
    assert done.stderr == f"bench_peers: cannot write {path}: {reason}\n"
