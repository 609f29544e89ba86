#!/usr/bin/env python3
"""Kill the daemon of a real mount in the midst of work, again and again, and look what is there.

A *life* is one image through several rounds. In a round, workers (`torture_work`) do calls drawn by
the seed until the daemon is killed with SIGKILL: in the midst of the work, or while it unmounts;
sometimes it is killed once more while it recovers. Then fsck has to be clean, the image is mounted
again, and each byte below the mount is held against the models (`torture_model`).

The seed decides which calls are done, in which order, and after how many the kill comes; only
where in a call it strikes is left to chance.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
from mount_run import PROGRAM, Mounted, assert_clean, scratch, wait_until
from torture_model import Found, LostError, TreeModel, observe
from torture_work import Setting, Worker

from pmemfs.bench.process import interruptible
from pmemfs.cli import table
from pmemfs.fuse import mounts
from pmemfs.units import MIB, format_size

WORKERS = 3
ROUNDS_IN_A_LIFE = 12
IMAGE_BYTES = 256 * MIB
MOST_CALLS = 400
CACHES = {"fusepy": ("writethrough", "none"), "native": ("writeback", "writethrough", "none")}
ENDED = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)  # how calls end with the daemon
EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


@dataclass
class Tally:
    """What has been done with one setting."""

    rounds: int = 0
    kills: int = 0
    calls: int = 0
    cut_off: int = 0
    files: int = 0
    bytes: int = 0

    def row(self) -> tuple[str, ...]:
        values = (self.rounds, self.kills, self.calls, self.cut_off, self.files)
        return (*(f"{value:,}" for value in values), format_size(self.bytes))


class TortureMount(Mounted):
    """An image that is killed at any time, and mounted by any front end."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.frontend = setting.frontend
        self.options = f"idle=1,cache={setting.cache},persist={setting.persist}"
        super().__init__(folder, IMAGE_BYTES)

    def kill_now(self) -> bool:
        """Kill the daemon if there is one; wait until it has let go of the image."""
        pid, self.pid = self.pid, 0
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if not wait_until(lambda: not mounts.lock_holders(str(self.image)), 30):
            raise LostError("the killed daemon does not end")
        return wait_until(lambda: not mounts.is_running(pid)) and bool(pid)

    def remove_dead_mount(self) -> None:
        if mounts.find_mount(str(self.directory)) is not None:
            mounts.unmount(str(self.directory), lazy=True)

    def kill_while_mounting(self, after_s: float) -> None:
        """Start a daemon and kill it soon, maybe in the midst of its recovery."""
        more = ["-f", "-o", self.options, "--frontend", self.frontend]
        command = [*PROGRAM, "mount", str(self.image), str(self.directory), *more]
        null = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=null, stderr=null, start_new_session=True) as process:
            time.sleep(after_s)
            process.kill()
        self.remove_dead_mount()


@dataclass
class Life:
    """One image, its models, and what is drawn for it."""

    setting: Setting
    seed: str
    folder: Path
    tally: Tally
    trees: list[TreeModel] = field(default_factory=lambda: [TreeModel() for _ in range(WORKERS)])
    workers: list[Worker] = field(default_factory=list)
    state: dict[str, object] = field(default_factory=dict)

    def run(self, rounds: int, tell: Callable[[str], None]) -> None:
        """Go through some rounds; raises `LostError`. Leaves no mount and no process."""
        self.one = TortureMount(self.folder, self.setting)
        try:
            self.one.mount(self.one.options)
            for number in range(len(self.trees)):
                self._root(number).mkdir()
            for number in range(rounds):
                self._round(number)
                tell(f"{self.setting.name}: {self.tally.kills} kills")
            self.one.finish()
        finally:
            for worker in self.workers:
                worker.kill()
            self.one.clean_up()

    def _root(self, number: int) -> Path:
        return self.one.directory / f"w{number}"

    def _round(self, number: int) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        calls = rng.randrange(1, MOST_CALLS)
        unmounts, again = rng.random() < 0.2, rng.random() < 0.25
        self.state = {"round": number, "killed after": calls, "while unmounting": unmounts}
        self.workers = [
            Worker(self._root(n), tree, number, f"{self.seed}/{n}", self.setting)
            for n, tree in enumerate(self.trees)
        ]
        if unmounts:
            self._kill_while_unmounting(calls, rng.uniform(0, 0.02))
        else:
            self._kill_in_the_midst(calls, rng.uniform(0, 0.004))
        outcomes = [worker.outcome() for worker in self.workers]
        self.state["calls"] = {
            f"w{n}": [str(call) for call in (*outcome.calls, f"cut off: {outcome.cut_off}")]
            for n, outcome in enumerate(outcomes)
        }
        for outcome in outcomes:
            self.tally.calls += len(outcome.calls)
            if (code := outcome.code) not in (0, *ENDED):
                why = os.strerror(code) if code > 0 else "see above"
                raise LostError(f"{outcome.cut_off} failed: {why}")
        self.tally.cut_off += sum(outcome.cut_off is not None for outcome in outcomes)
        self.one.remove_dead_mount()
        self._keep()
        assert_clean(self.one.image)
        if again:
            self.one.kill_while_mounting(rng.uniform(0.2, 0.7))
            self.tally.kills += 1
            assert_clean(self.one.image)
        self.one.mount(self.one.options)
        self.trees = [self._verified(n, outcome.models) for n, outcome in enumerate(outcomes)]
        self.tally.rounds += 1

    def _kill_in_the_midst(self, calls: int, more_s: float) -> None:
        deadline = time.monotonic() + 60
        while sum(worker.returned for worker in self.workers) < calls:
            if time.monotonic() > deadline or not any(w.is_running() for w in self.workers):
                break
            time.sleep(0.0005)
        time.sleep(more_s)
        self.tally.kills += self.one.kill_now()
        for worker in self.workers:
            worker.wait()

    def _kill_while_unmounting(self, calls: int, after_s: float) -> None:
        for worker in self.workers:
            worker.stop_after(calls // len(self.workers))
        for worker in self.workers:
            worker.wait()
        pid = os.fork()
        if not pid:
            with suppress(BaseException):
                mounts.unmount(str(self.one.directory))
            os._exit(0)
        time.sleep(after_s)
        self.tally.kills += self.one.kill_now()
        os.waitpid(pid, 0)

    def _keep(self) -> None:
        """Keep the image as the kill left it, until the next round."""
        killed = self.folder / "killed.img"
        subprocess.run(["cp", "--sparse=always", self.one.image, killed], check=True)

    def _verified(self, number: int, models: list[TreeModel]) -> TreeModel:
        """Return the one of the models that is there; raises `LostError`."""
        found = observe(self._root(number))
        why = []
        for model in models:
            problem = model.problem(found)
            if problem is None:
                model.believe(found)
                self._count(found)
                return model
            why.append(problem)
        raise LostError(f"w{number}: " + "; or ".join(why))

    def _count(self, found: dict[str, Found]) -> None:
        files = [each for each in found.values() if each.kind == "file"]
        self.tally.files += len(files)
        self.tally.bytes += sum(len(each.data) for each in files)


# -- many lives ---------------------------------------------------------------------------------


def settings_of(frontend: str, cache: str, persist: str) -> list[Setting]:
    """Return what is asked for, as far as the front ends can do it."""
    return [
        Setting(front, mode, where)
        for front, modes in CACHES.items()
        for mode in modes
        for where in ("cache", "disk")
        if frontend in (front, "all") and cache in (mode, "all") and persist in (where, "all")
    ]


def torture(
    setting: Setting,
    rounds: int,
    seed: str,
    tally: Tally,
    *,
    keep: Path,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Go through rounds with one setting; on a failure keep the image in a folder, and name it."""
    life = 0
    while rounds > 0:
        with scratch("pmemfs-torture-") as folder:
            one = Life(setting, f"{seed}/{setting.name}/{life}", folder, tally)
            try:
                one.run(min(rounds, ROUNDS_IN_A_LIFE), tell)
            except (LostError, AssertionError, OSError, subprocess.SubprocessError) as error:
                raise LostError(f"{setting.name}: {error}\n{_kept(one, keep, error)}") from error
        rounds -= ROUNDS_IN_A_LIFE
        life += 1


def _kept(life: Life, keep: Path, error: Exception) -> str:
    keep.mkdir(parents=True, exist_ok=True)
    for name in ("killed.img", "disk.img", "log/disk.log"):
        path = life.folder / name
        if path.exists():
            subprocess.run(["cp", "--sparse=always", path, keep / path.name], check=False)
    facts = {"setting": life.setting.name, "seed": life.seed, "error": str(error), **life.state}
    (keep / "round.json").write_text(json.dumps(facts, indent=2) + "\n")
    return (
        f"kept in {keep}: the image as it was killed and as it is now, the log, and round.json: "
        f"seed {life.seed}, round {life.state.get('round')}"
    )


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Give a function that shows what is going on: one line that changes, on a terminal only."""
    begin = time.monotonic()

    def tell(text: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K[{time.monotonic() - begin:5.0f} s] {text}", err=True, nl=False)

    yield tell
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True,
              help="Rounds for each setting: work, a kill, a check of everything.")  # fmt: skip
@click.option("--seed", default=None, help="Do the same calls again; printed by each run.")
@click.option("--frontend", type=click.Choice([*CACHES, "all"]), default="all", show_default=True,
              help="The front end.")  # fmt: skip
@click.option("--cache", type=click.Choice([*CACHES["native"], "all"]), default="all",
              show_default=True, help="The cache mode; fusepy has no writeback.")  # fmt: skip
@click.option("--persist", type=click.Choice(["cache", "disk", "all"]), default="all",
              show_default=True, help="The persistence mode.")  # fmt: skip
@click.option("--keep", type=click.Path(path_type=Path), default=Path("torture-failure"),
              show_default=True, help="Where a failing round is kept.")  # fmt: skip
@click.pass_context
def main(
    context: click.Context,
    rounds: int,
    seed: str | None,
    frontend: str,
    cache: str,
    persist: str,
    keep: Path,
) -> None:
    r"""Kill the daemon of a mount in the midst of work; check that nothing that counts is lost.

    Each setting is a front end, a cache mode and a persistence mode. With cache=writethrough and
    none, all that has returned must be there; with writeback, all that was synced, and of the rest
    each page as it was at one moment. fsck must be clean after each kill.

    \b
    Examples:
      make torture ARGS="--rounds 100"
      make torture ARGS="--frontend native --cache writeback --rounds 50"
      make torture ARGS="--seed 7 --persist disk"
    """
    settings = settings_of(frontend, cache, persist)
    if not settings:
        raise click.UsageError(f"{frontend} has no cache={cache}")
    seed = seed or str(random.SystemRandom().randrange(1 << 32))
    click.echo(f"seed {seed}; {rounds} rounds for each of {len(settings)} settings")
    tallies = {setting: Tally() for setting in settings}
    status, begin = 0, time.monotonic()
    try:
        with interruptible(), progress() as tell:
            for setting in settings:
                torture(setting, rounds, seed, tallies[setting], keep=keep, tell=tell)
                if not sys.stderr.isatty():
                    click.echo(f"{setting.name}: {tallies[setting].rounds} rounds", err=True)
    except KeyboardInterrupt:
        click.echo("interrupted: everything is unmounted and removed", err=True)
        status = EXIT_INTERRUPTED
    except LostError as error:
        click.echo(f"LOST: {error}", err=True)
        status = EXIT_FAILED
    report(tallies, time.monotonic() - begin)
    context.exit(status)


def report(tallies: dict[Setting, Tally], seconds: float) -> None:
    """Print what has been done."""
    total = Tally()
    for tally in tallies.values():
        for name, value in vars(tally).items():
            setattr(total, name, getattr(total, name) + value)
    columns = (">rounds", ">kills", ">calls returned", ">cut off", ">files verified", ">bytes")
    rows = [(s.frontend, s.cache, s.persist, *t.row()) for s, t in tallies.items() if t.rounds]
    rows.append(("all", "", "", *total.row()))
    table.table(["front end", "cache", "persist", *columns], rows)
    click.echo(f"{total.kills} kills in {seconds:.0f} s")


if __name__ == "__main__":
    main()
