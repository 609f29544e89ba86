"""Pictures as files: what cannot be written is known before, and said in a sentence."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pmemfs.bench.picture import load_matplotlib, save_picture, validate_picture
from pmemfs.bench.writable import validate_writable
from pmemfs.errors import PmemfsError

pytestmark = pytest.mark.filterwarnings("default")  # matplotlib's own


def test_no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(PmemfsError, match=r"pip install 'pmemfs\[plot\]'"):
        load_matplotlib()


def test_asking_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_text("mine")
    (tmp_path / "link.png").symlink_to("target.png")
    before = (tmp_path / "old.png").stat()
    for name in ("old.png", "new.png", "link.png", "NEW.SVG"):
        validate_picture(tmp_path / name)
    assert (tmp_path / "old.png").read_text() == "mine"
    assert (tmp_path / "old.png").stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.png", "old.png"]


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("folder.png", errno.EISDIR, "Is a directory"),
        ("none/x.png", errno.ENOENT, "there is no directory /"),
        ("file/x.png", errno.ENOENT, "there is no directory /"),
        ("/proc/x.png", errno.ENOENT, "No such file"),
        ("/sys/x.png", errno.EACCES, "Permission denied"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, code: int, reason: str) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(PmemfsError, match=rf"^cannot write .*{name}: {reason}") as caught:
        validate_writable(tmp_path / name)
    assert caught.value.errno == code


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_text("mine")
    figure = load_matplotlib().figure()
    figure.suptitle("$ not mathematics")
    figure.text(0.5, 0.5, r"$\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        save_picture(figure, path)
    assert path.read_text() == "mine"
    load_matplotlib().close("all")
