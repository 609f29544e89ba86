"""scripts/bench_fsck.py, in small: what it makes, what fsck says of it, what is left behind."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pmemfs.fs import Volume

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_fsck.py"
SMALL = ["--files", "300", "--directories", "7", "--damage", "5"]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_fsck", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(image_dir: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    report = image_dir / "report.json"
    command = [sys.executable, SCRIPT, "--place", image_dir, "--json", report, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    document = json.loads(report.read_text()) if report.exists() else None
    report.unlink(missing_ok=True)
    assert not list(image_dir.iterdir()), "something is left behind"
    return done, document


def test_what_it_measures(image_dir: Path) -> None:
    done, document = run(image_dir, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 files in 7 directories" in done.stdout
    assert document["image"]["files"] == 300
    assert document["image"]["damage"] == 6
    assert 0 < document["image"]["pages"] < 300
    steps = document["steps"]
    assert [step["name"] for step in steps] == ["sound", "damaged", "mend", "mended"]
    assert [step["status"] for step in steps] == [0, 4, 1, 0]
    for step in steps:
        assert step["wall_s"] > 0
        assert step["cpu_s"] > 0
        assert step["memory_bytes"] > 10 << 20
        assert step["name"] in done.stdout


def test_one_seed_one_image(script: ModuleType, image_dir: Path) -> None:
    def drawn(seed: int) -> tuple[list[str], int, list[int]]:
        image = image_dir / "drawn.img"
        made = script.make_image(image, 50, 3, 0.5, 5, random.Random(seed))
        with Volume.open(image) as volume:
            parents = [volume.resolve(b"directory-%d" % n).ino for n in range(3)]
            names = [entry.name.decode() for ino in parents for entry in volume.readdir(ino)]
        image.unlink()
        return sorted(names), made.pages, made.damage

    assert drawn(5) == drawn(5)
    assert all(one != other for one, other in zip(drawn(5), drawn(6)))


def test_a_wrong_status_is_told(
    script: ModuleType, image_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Damage that is none: fsck finds nothing, and the script says that it should have."""
    monkeypatch.setattr(script, "overwrite", lambda path, offsets: None)
    with pytest.raises(SystemExit) as ended:
        script.main([*SMALL, "--place", str(image_dir)])
    assert ended.value.code == 1
    assert "0, not 4" in capsys.readouterr().out


@pytest.mark.slow
def test_a_hundred_thousand(image_dir: Path) -> None:
    done, document = run(image_dir, "--files", "100000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert document["image"]["files"] == 100_000
