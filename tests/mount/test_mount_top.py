"""The counters that a live daemon shows, through both front ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mount_run import NEEDS_MOUNT, Mounted, mounted, run_here, scratch, wait_until

from pmemfs.inspect import Reader, collect
from pmemfs.inspect.activity import activity

pytestmark = NEEDS_MOUNT


class NativeMounted(Mounted):
    frontend = "native"


class FusepyMounted(Mounted):
    frontend = "fusepy"


@pytest.fixture(params=[FusepyMounted, NativeMounted])
def mount(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    with scratch() as folder, mounted(folder, "cache=none,idle=60", request.param) as one:
        yield one


def sample(mount: Mounted) -> dict[str, Any]:
    with Reader(mount.image) as reader:
        return collect(reader, lambda reader: activity(reader, now_s=int(time.time())))


def test_requests_are_counted_by_kind(mount: Mounted) -> None:
    for number in range(5):
        path = mount.directory / f"f{number}"
        path.write_bytes(bytes(5000))
        assert path.read_bytes() == bytes(5000)
    path.rename(mount.directory / "other")
    (mount.directory / "f0").unlink()
    assert wait_until(lambda: sample(mount)["requests"]["remove"])
    data = sample(mount)
    requests = data["requests"]
    assert (requests["create"], requests["rename"], requests["remove"]) == (5, 1, 1)
    assert requests["write"] >= 5
    assert requests["read"] >= 5
    assert data["counters"]["splits"] >= 1
    assert data["counters"]["stores"] > 0
    assert any(entry["kind"] == "split" and entry["pages"] for entry in data["recent"])
    (shown,) = run_here("inspect", "top", mount.image, "--json").stdout.splitlines()
    assert json.loads(shown)["requests"]["create"] == 5


def test_a_mount_that_nobody_uses_stores_nothing(mount: Mounted) -> None:
    (mount.directory / "f").write_bytes(b"x")
    assert wait_until(lambda: sample(mount)["requests"]["create"])
    time.sleep(1.2)  # the last counters have been stored by now
    before = sample(mount)
    time.sleep(2.2)
    assert sample(mount)["stored_ns"] == before["stored_ns"]


def test_a_new_mount_counts_from_nothing(mount: Mounted) -> None:
    (mount.directory / "f").write_bytes(b"x")
    assert wait_until(lambda: sample(mount)["requests"]["create"])
    mount.umount()
    assert sample(mount)["stored_ns"] is None
    mount.mount("cache=none")
    assert sample(mount)["requests"]["create"] == 0
