"""Recording the accesses of a live mount, through both front ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount_run import NEEDS_MOUNT, NEEDS_ROOT, PROGRAM, Mounted, mounted, run, scratch, wait_until

from pmemfs.bench.descriptors.accesses import summary
from pmemfs.pages.trace import read_trace

pytestmark = NEEDS_MOUNT
NAME = "user.pmemfs.trace"


class NativeMounted(Mounted):
    frontend = "native"


class FusepyMounted(Mounted):
    frontend = "fusepy"


@pytest.fixture(scope="module", params=[FusepyMounted, NativeMounted])
def mount(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    with scratch() as folder, mounted(folder, "cache=none,idle=5", request.param) as one:
        yield one


def trace_of(path: Path) -> dict:
    header, records = read_trace(path)
    return summary(header["n_extents"], header["dropped"], records)


def test_a_command_is_recorded(mount: Mounted, tmp_path: Path) -> None:
    trace = tmp_path / "t.trace"
    script = "echo 1 > a; cat a; dd if=/dev/zero of=b bs=1M count=2 status=none; rm a b; exit 5"
    done = run(
        *("trace", "record", mount.directory, "-o", trace),
        *("--", "sh", "-c", f"cd {mount.directory}; {script}"),
        check=False,
    )
    assert (done.returncode, done.stdout) == (5, "1\n")
    assert done.stderr.startswith(f"{trace}: ")
    data = trace_of(trace)
    assert data["device_bytes"] == os.path.getsize(mount.image)
    assert data["dropped"] == 0
    assert data["small"]["extents"] >= 1
    assert data["whole"] == {"records": data["whole"]["records"], "pages": 512, "extents": 1} or (
        data["whole"]["pages"] >= 512
    )
    assert data["reads"]["records"] >= 1
    assert data["writes"]["pages"] >= 513
    assert data["frees"]["pages"] >= 512
    shown = json.loads(run("trace", "show", trace, "--json").stdout)
    assert shown == {"file": str(trace)} | data
    assert "Hottest extents" in run("trace", "show", trace).stdout


def test_by_image_until_interrupted(mount: Mounted, tmp_path: Path) -> None:
    trace = tmp_path / "t.trace"
    words = [*PROGRAM, "trace", "record", str(mount.image), "-o", str(trace)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "recording; Ctrl-C ends it\n"
        (mount.directory / "x").write_bytes(bytes(4096))
        assert wait_until(lambda: trace.stat().st_size > 64)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert trace_of(trace)["writes"]["records"] >= 1


def test_one_at_a_time_and_for_the_owner(mount: Mounted, tmp_path: Path) -> None:
    os.setxattr(mount.directory, NAME, b"on")
    try:
        assert NAME not in os.listxattr(mount.directory)
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            os.getxattr(mount.directory, NAME)
        done = run("trace", "record", mount.directory, "-o", tmp_path / "t", check=False)
        assert done.returncode == 1
        assert "somebody else records the accesses there" in done.stderr
    finally:
        os.removexattr(mount.directory, NAME)
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.removexattr(mount.directory, NAME)


def test_a_start_that_fails_leaves_the_old_trace(mount: Mounted, tmp_path: Path) -> None:
    trace, made = tmp_path / "t", tmp_path / "made"
    trace.write_text("the old one")
    missing = ("trace", "record", mount.directory, "-o", trace, "--", "/no/program")
    assert "cannot run /no/program" in run(*missing, check=False).stderr
    assert trace.read_text() == "the old one"
    os.setxattr(mount.directory, NAME, b"on")
    try:
        busy = ("trace", "record", mount.directory, "-o", trace, "--", "touch", made)
        assert "somebody else records" in run(*busy, check=False).stderr
    finally:
        os.removexattr(mount.directory, NAME)
    assert trace.read_text() == "the old one"
    assert not made.exists(), "the command begins after the recording"


def test_the_end_of_the_time_is_no_failure(mount: Mounted, tmp_path: Path) -> None:
    words = ("trace", "record", mount.directory, "-o", tmp_path / "t", "--seconds", "0.3", "--")
    done = run(*words, "sleep", "30")
    assert done.stderr.startswith("the command was ended: 0.3 s are over\n")
    assert trace_of(tmp_path / "t")["records"] == 0
    assert run(*words, "sh", "-c", "exit 4", check=False).returncode == 4


def test_a_trace_that_its_disk_cannot_take(mount: Mounted, tmp_path: Path) -> None:
    (tmp_path / "t").symlink_to("/dev/full")
    words = ("trace", "record", mount.directory, "-o", tmp_path / "t", "--", "true")
    done = run(*words, check=False)
    assert done.returncode == 1
    assert done.stderr == f"pmemfs: cannot write {tmp_path / 't'}: No space left on device\n"


@pytest.mark.parametrize("mounted_class", [FusepyMounted, NativeMounted])
def test_the_daemon_ends_while_it_is_recorded(mounted_class: type[Mounted], tmp_path: Path) -> None:
    trace = tmp_path / "t"
    with scratch() as folder:
        one = mounted_class(folder)
        one.mount("cache=none")
        script = f"echo 1 > {one.directory}/a; sleep 0.5; kill -9 {one.pid}; exec sleep 30"
        try:
            done = run(
                *("trace", "record", one.directory, "-o", trace, "--", "sh", "-c", script),
                check=False,
            )
        finally:
            run("umount", one.directory)
    assert done.returncode == 1
    told, reason = done.stderr.splitlines()
    assert told.startswith(f"{trace}: ")
    assert reason.startswith(f"pmemfs: cannot go on recording on {one.directory}: its daemon has ")
    assert reason.endswith("what was recorded until then is kept")
    assert trace_of(trace)["writes"]["records"] >= 1


def test_below_the_root_it_is_an_attribute_like_any_other(mount: Mounted) -> None:
    path = mount.directory / "file"
    path.touch()
    os.setxattr(path, NAME, b"mine")
    assert os.getxattr(path, NAME) == b"mine"
    assert os.listxattr(path) == [NAME]
    os.removexattr(path, NAME)


def test_what_cannot_be_recorded(mount: Mounted, tmp_path: Path) -> None:
    for arguments, sentence in (
        ((tmp_path, "-o", tmp_path / "t"), "no pmemfs is mounted on"),
        ((mount.directory, "-o", mount.directory / "t"), "lies on the mount that is recorded"),
        ((mount.directory, "-o", tmp_path / "no" / "t"), "cannot write"),
        ((mount.directory, "-o", tmp_path / "t", "--", "/no/program"), "cannot run /no/program"),
    ):
        done = run("trace", "record", *arguments, check=False)
        assert done.returncode == 1, done
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
        assert not list(tmp_path.iterdir())
    os.setxattr(mount.directory, NAME, b"on")  # the last one left nothing behind
    os.removexattr(mount.directory, NAME)


@NEEDS_ROOT
@pytest.mark.parametrize("mounted_class", [FusepyMounted, NativeMounted])
def test_options_that_exclude_it(mounted_class: type[Mounted], tmp_path: Path) -> None:
    with scratch() as folder, mounted(folder, "noxattr", mounted_class) as one:
        done = run("trace", "record", one.directory, "-o", tmp_path / "t", check=False)
        assert "mounted with noxattr" in done.stderr
        one.remount("ro")
        (tmp_path / "t").write_text("the old one")
        done = run("trace", "record", one.directory, "-o", tmp_path / "t", check=False)
        assert "mounted read-only" in done.stderr
        assert (tmp_path / "t").read_text() == "the old one"
        one.remount("allow_other")
        one.directory.chmod(0o777)
        assert errno_as_nobody(one.directory) == errno.EPERM


def errno_as_nobody(directory: Path) -> int:
    """Try to record as another user, who may write there; return the errno."""
    pid = os.fork()
    if not pid:
        code = 0
        try:
            os.setgid(65534)
            os.setuid(65534)
            os.setxattr(directory, NAME, b"on")
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
