"""The views free, journal and super."""

from hand_built import MIB, daemon

from pmemfs.inspect import free, journal, superblock, usage
from pmemfs.inspect import reader as reader_module
from pmemfs.layout.geometry import journal_slot_offset
from pmemfs.layout.records import NOTHING_TO_REPLAY, EntryKind, Kind, MountState


def test_fresh_image_is_one_run(look):
    data = look(free)
    assert data["free_bytes"] == data["aligned_bytes"] == 56 * MIB
    assert data["extent_runs"]["runs"] == 1
    assert data["extent_runs"]["histogram"] == [
        {
            "min": 16,
            "max": 31,
            "min_bytes": 32 * MIB,
            "below_bytes": 64 * MIB,
            "runs": 1,
            "free": 28,
            "free_bytes": 56 * MIB,
        }
    ]
    assert data["page_runs"]["histogram"] == []


def test_runs_of_pages_and_extents(built, look):
    owned = [slot for slot in range(1, 512) if slot not in (4, 5, 9)]
    built.small(6, {slot: (2, slot) for slot in owned})
    built.head(9, Kind.RETURNED)
    built.head(20, Kind.WHOLE, owner=2)
    data = look(free)
    assert data["partly_used_extents"] == 1
    assert [(b["min"], b["runs"], b["free"]) for b in data["page_runs"]["histogram"]] == [
        (1, 1, 1),
        (2, 1, 2),
    ]
    assert [(b["min"], b["runs"], b["free"]) for b in data["extent_runs"]["histogram"]] == [
        (2, 1, 2),
        (8, 2, 24),
    ]
    assert data["page_runs"]["largest"] == 2
    assert data["free_bytes"] == look(usage)["free_bytes"]


def test_slices_do_not_cut_runs(built, look, monkeypatch):
    built.head(20, Kind.WHOLE, owner=2)
    expected = look(free)
    monkeypatch.setattr(reader_module, "HEADS_PER_SLICE", 3)
    assert look(free) == expected


def test_counts_that_disagree_are_remarked(built, look):
    built.head(6, Kind.SMALL, used=9)
    assert look(free)["remarks"] == ["extent 6: the head counts 9 pages, the owner page 0"]


def test_journal_of_a_crash(built, look):
    built.control(committed=5, state=MountState.MOUNTED)
    head = built.geometry.head_offset(7)
    built.transaction(5, [(head, 32, EntryKind.STORE, bytes(32)), (4096, 9, EntryKind.ZERO, b"")])
    data = look(journal)
    assert (data["committed"], data["replay_needed"]) == (5, True)
    unused, slot = data["slots"]
    assert unused["empty"] is True
    assert slot["is_committed"] is slot["header_valid"] is slot["payload_valid"] is True
    assert slot["entries"] == [
        {"offset": head, "length": 32, "kind": "store", "home": "head of extent 7, kind"},
        {"offset": 4096, "length": 9, "kind": "zero", "home": "control page, committed"},
    ]
    with daemon(built.path):
        assert look(journal)["replay_needed"] is False


def test_journal_with_nothing_to_replay(built, look):
    built.transaction(4, [])
    built.control(committed=4 | NOTHING_TO_REPLAY)
    data = look(journal)
    assert (data["committed"], data["nothing_to_replay"]) == (4, True)
    assert data["replay_needed"] is False
    assert data["slots"][0]["is_committed"] is True


def test_damaged_slots(built, look):
    built.transaction(4, [(0, 100, EntryKind.STORE, b"short")])
    built.transaction(5, [(0, 8, 77, b"")])
    data = look(journal)
    assert [remark.split(": ")[1] for remark in data["remarks"]] == [
        "the payload ends within it",
        "unknown kind 77",
    ]
    built.store(journal_slot_offset(4), b"\x99" * 64)
    slot = look(journal)["slots"][0]
    assert (slot["header_valid"], slot["payload_valid"], slot["entries"]) == (False, False, [])


def test_an_entry_may_name_any_offset(built, look):
    built.transaction(4, [(1 << 63, 8, EntryKind.ZERO, b""), (6 << 21, 8, EntryKind.ZERO, b"")])
    homes = [entry["home"] for entry in look(journal)["slots"][0]["entries"]]
    assert homes == ["beyond the device", "pfn 3072 (page 0 of free extent 6)"]


def test_superblock(built, look):
    data = look(superblock)
    assert data["superblock"]["label"] == "hand"
    assert data["superblock"]["uuid"] == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert data["control"]["generation"] == 7
    assert data["control"]["nothing_to_replay"] is True
    assert data["geometry"]["reserve_extent"] == 3
    assert [copy["checksum_valid"] for copy in data["copies"]] == [True, True]
    built.store(built.geometry.backup_superblock_offset + 9, b"x")
    data = look(superblock)
    assert [copy["checksum_valid"] for copy in data["copies"]] == [True, False]


def test_label_of_any_bytes(built, look):
    built.superblock(label=b"\xff\x1b[0m")
    assert look(superblock)["superblock"]["label"] == "\\xff\x1b[0m"
