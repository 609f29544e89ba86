"""Hold the crash states of a recording against the oracle.

What is asked of every state, in this order:

1. the engine's recovery succeeds, and the checker reads the same transaction from the journal;
2. fsck finds nothing, the journal replayed in its memory;
3. a read-only mount recovers in memory, writes nothing, and shows an allowed tree (`Allowed`):
   before an operation returned, the tree after any number of its steps, never fewer than an
   earlier crash kept; from its return on, the tree after all of them;
4. a mount recovers to the same tree, believes no earlier split table, and free extents read as
   zeros;
5. in every directory a file can be made and written; then everything can be deleted;
6. the volume closes, every extent is free but the fixed ones, and fsck finds nothing.

States that are equal are asked once. 1 is asked of all others; 2 and 4 to 6 once for each outcome
of the recovery (see `crash_outcome`), 3 once for each that differs in data too. An `Oracle`
remembers outcomes from one recording to the next, and is worth keeping as long as the engine is
the same.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from crash_case import Case, Clock, Recording, options_of, tree_at
from crash_outcome import Outcome, outcome_of
from crash_scratch import Scratch, TrackedDevice, UnbackedDevice
from crash_tree import Tree, observe

from pmemfs.device import CrashState
from pmemfs.device.sparse import PAGE_BYTES, PAGE_SHIFT
from pmemfs.errors import InvariantError
from pmemfs.fs.volume import Volume
from pmemfs.fsck import check
from pmemfs.fsck.journal import read_transaction as read_by_fsck
from pmemfs.image import Image
from pmemfs.journal import read_transaction, recover
from pmemfs.journal.journal import COMMITTED_OFFSET
from pmemfs.layout.geometry import EXTENT_BYTES, extent_to_offset
from pmemfs.layout.records import NOTHING_TO_REPLAY, Kind, PageFlag

MOST_FAILURES = 3
_TREES_KEPT = 4_000


class Oracle:
    """Asks everything of a state; counts ``outcomes`` and remembers those that passed."""

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._usable: set[tuple[object, ...]] = set()
        self._trees: dict[tuple[object, ...], Tree] = {}
        self._image: Image | None = None

    def close(self) -> None:
        """Let go of the image."""
        if self._image is not None:
            self._image.close()
        self._scratch.close()

    def is_refused(self, state: CrashState, recording: Recording) -> bool:
        """Tell whether nobody would go on from a state."""
        if recording.refuses is None:
            return False
        self._scratch.become(state.image)
        try:
            return recording.refuses(self._scratch.path)
        finally:
            self._scratch.forget_all()

    def tree(self, state: CrashState, recording: Recording) -> tuple[object, Tree]:
        """Return ``(key, tree)`` of what a state recovers to; raise what is wrong with it.

        Equal keys have equal trees.
        """
        case = recording.case
        self._scratch.become(state.image)
        if recording.recover is not None:
            try:
                recording.recover(self._scratch.path)
                return state.digest(), self._check_at(case)
            finally:
                self._scratch.forget_all()
        outcome = self._recover(state)
        structure = (outcome.structure, case.skip, case.keep, case.threshold_pages)
        key = (outcome, case.skip)
        known = self._trees.get(key)
        if known is not None and structure in self._usable:
            return key, known
        self._scratch.become(state.image)
        try:
            known = tree_at(self._scratch.path, case) if structure in self._usable else None
            if known is None:
                known = self._check_at(case)
        finally:
            self._scratch.forget_all()
        self._usable.add(structure)
        if len(self._trees) >= _TREES_KEPT:
            self._trees.clear()
        self._trees[key] = known
        return key, known

    # -- recovery, of every state --------------------------------------------------------------

    def _recover(self, state: CrashState) -> Outcome:
        """Recover the scratch in place, as a mount begins to; return what it comes to."""
        scratch = self._scratch
        if self._image is None:
            self._image = Image(os.dup(scratch.fd), scratch.path, device_class=TrackedDevice)
        device = self._image.device
        assert isinstance(device, TrackedDevice)
        device.touched.clear()
        self._require_same_transaction(self._image)
        try:
            recover(device)
        finally:
            scratch.forget(device.touched)
        pages = dict(state.image.pages)
        for number in device.touched:
            start = number << PAGE_SHIFT
            pages[number] = bytes(scratch.view[start : start + PAGE_BYTES])
        return outcome_of(scratch.view, pages)

    @staticmethod
    def _require_same_transaction(image: Image) -> None:
        """Assert that engine and checker read the same transaction from the journal."""
        view, committed = image.device.view, image.device.words[COMMITTED_OFFSET >> 3]
        if committed & NOTHING_TO_REPLAY:
            return
        findings: list[str] = []
        reader = read_by_fsck(image)
        try:
            while True:
                findings.append(str(next(reader)))
        except StopIteration as end:
            transaction = end.value
        assert not findings, f"before recovery: {findings}"
        entries = [
            (offset, length, None if at is None else bytes(view[at : at + length]))
            for offset, length, at in transaction.redos
        ]
        assert entries == read_transaction(image.device, committed), "fsck replays something else"

    # -- the rest, of every outcome ------------------------------------------------------------

    def _check_at(self, case: Case) -> Tree:
        path = self._scratch.path
        require_clean(path, "before recovery")
        tree = tree_at(path, case)
        use(path, case, tree)
        return tree


def use(path: str, case: Case, tree: Tree) -> None:
    """Mount an image and use it until nothing is left of what it held."""
    clock = Clock()
    clock.now += 100 * 10**9
    before = _generation(path)
    volume = Volume.open(path, options_of(case, clock), device_class=UnbackedDevice)
    try:
        require_no_split(volume, before)
        require_zeros_in_free_extents(volume)
        assert observe(volume, case.skip) == tree, "a mount sees another tree"
        make_a_file_everywhere(volume, case.skip)
        if case.keep:
            return
        delete_everything(volume)
        volume.close()
        require_all_free(volume)
    finally:
        volume.abandon()
    require_clean(path, "after deleting everything", is_empty=True)


class Crasher:
    """Checks the states of one recording; ``failures`` are ``id: reason`` lines, ``errors`` theirs.

    ``found`` are the digests of the distinct states, ``outcomes`` what they came to.
    ``refused`` counts those that nobody would go on from: nothing else is asked of them.
    ``kept`` is the step that no crash from there on may lose. ``breaks_rule`` says that the
    recording itself is not one of a device.
    """

    def __init__(self, recording: Recording, oracle: Oracle, *, name: str = "") -> None:
        self.recording = recording
        self.oracle = oracle
        self.name = name or recording.case.name
        self.failures: list[str] = []
        self.errors: list[Exception] = []
        self.breaks_rule = False
        self.found: set[int] = set()
        self.enumerated = 0
        self.outcomes: set[object] = set()
        self._seen: dict[tuple[int, int, int], int] = {}
        self._matched: dict[tuple[object, int, int], int] = {}
        self.kept = 0
        self.refused = 0

    def run(self, samples: int) -> None:
        """Check all states, until there are too many failures."""
        try:
            for state in self.recording.states(samples):
                self._run_one(state, samples)
                if len(self.failures) >= MOST_FAILURES:
                    break
        except InvariantError as error:  # the recording itself breaks a rule of the device
            self.breaks_rule = True
            self._fail(f"{self.name}@{samples}/", error)

    def _run_one(self, state: CrashState, samples: int) -> None:
        self.enumerated += 1
        digest = state.digest()
        key = digest, self.kept, self.recording.allowed.floor(state.after)
        if key in self._seen:
            self._keep(state, self._seen[key])
            return
        self.found.add(digest)
        try:
            self._seen[key] = self.check(state)
        except Exception as error:
            self._seen[key] = 0
            self._fail(f"{self.name}@{samples}/{state.id}", error)

    def _fail(self, state_id: str, error: Exception) -> None:
        self.errors.append(error)
        self.failures.append(f"{state_id}: {type(error).__name__}: {str(error)[:600]}")

    def check(self, state: CrashState) -> int:
        """Return the step that a state comes to; raise what is wrong with it."""
        if self.oracle.is_refused(state, self.recording):
            self.refused += 1
            return self.kept
        key, tree = self.oracle.tree(state, self.recording)
        self.outcomes.add(key)
        allowed = self.recording.allowed
        known = key, self.kept, allowed.floor(state.after)
        step = self._matched.get(known)
        if step is None:
            step = self._matched[known] = allowed.match(tree, state.after, self.kept)
        self._keep(state, step)
        return step

    def _keep(self, state: CrashState, step: int) -> None:
        """Note what every later crash has to keep, if this is the state with nothing pending."""
        if state.id.endswith((".none.0", ".each.0")):
            self.kept = max(self.kept, step)


def require_clean(path: str, when: str, *, is_empty: bool = False) -> None:
    """Run fsck on an image that nothing has open."""
    image = Image.open(path, lock="shared")
    try:
        report = check(image)
    finally:
        image.close()
    assert report.is_clean, f"{when}: {[str(f) for f in report.findings[:4]]}"
    if is_empty:
        fixed = image.geometry.fixed_extents
        assert report.extents["free"] == report.n_extents - fixed, f"{when}: {report.extents}"
        assert (report.files, report.directories, report.orphans) == (0, 1, 0), f"{when}: {report}"


def _generation(path: str) -> int:
    image = Image.open(path, lock="none")
    try:
        return int(image.control()["generation"])
    finally:
        image.close()


def require_no_split(volume: Volume, before: int) -> None:
    """Assert that a mount believes no split table of the one before it (invariant 2)."""
    generation = volume.image.control()["generation"]
    assert generation > before, "a mount has not raised the generation"
    heads = volume.image.heads
    believed = (heads["generation"] == generation) & (heads["table"] & int(PageFlag.SPLIT) != 0)
    assert not believed.any(), "a mount believes a split table of an earlier one"


def require_all_free(volume: Volume) -> None:
    """Assert invariant 4 of the design, in what a volume that was closed remembers."""
    pool, geometry = volume.pool, volume.geometry
    assert pool.counts[Kind.FREE] == geometry.n_extents - geometry.fixed_extents, pool.counts
    assert volume.inodes.in_use == 1
    assert not volume.orphans


def require_zeros_in_free_extents(volume: Volume) -> None:
    device = volume.device
    for extent in range(volume.geometry.n_extents):
        if volume.pool.kind(extent) == Kind.FREE:
            start = extent_to_offset(extent)
            for low, high in device.iter_data(start, start + EXTENT_BYTES):
                assert not any(device.view[low:high]), f"FREE extent {extent} holds data"


def make_a_file_everywhere(volume: Volume, skip: Iterable[bytes]) -> None:
    """Make and write a file in every directory."""
    directories = [(1, b"")]
    for ino, path in directories:
        if path in skip:
            continue
        for entry in list(volume.readdir(ino)):
            if entry.type == stat.S_IFDIR >> 12 and entry.name not in (b".", b".."):
                directories.append((entry.ino, path + b"/" + entry.name))
    for ino, _ in directories:
        made = volume.create(ino, b"made after the crash", stat.S_IFREG | 0o600)
        volume.write(made.ino, 5000, b"data")
        assert b"".join(volume.read(made.ino, 0, 9999)) == bytes(5000) + b"data"


def delete_everything(volume: Volume, ino: int = 1) -> None:
    for entry in list(volume.readdir(ino)):
        if entry.name in (b".", b".."):
            continue
        if volume.inode_flags(entry.ino):
            volume.set_inode_flags(entry.ino, 0)
        if entry.type == stat.S_IFDIR >> 12:
            delete_everything(volume, entry.ino)
            volume.rmdir(ino, entry.name)
        else:
            volume.unlink(ino, entry.name)
