"""Some mutants in their workers with limits, and the bench itself."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from mutant_bases import BASES, CLOSED, build_base
from mutant_run import Bench, MutantId, fingerprint
from mutant_sites import ImageFile, Sites
from mutant_views import BrokenRuleError, take, validated_text, views
from mutations import ALL_RECORDS, Mutator, sweep_length
from volumes import findings_of

from pmemfs.cli.inspect import inspect_command

SEED = 7
IN_EACH_TEST = 12
PROGRAM = Path(__file__).parent / "run_mutants.py"


@pytest.mark.parametrize("part", range(4))
def test_mutants_are_refused_or_right(part: int) -> None:
    """See `mutant_run` for what is done with each, and for the rules."""
    command = [sys.executable, PROGRAM, "--count", IN_EACH_TEST, "--jobs", 1]
    command += ["--seed", SEED, "--first", part * IN_EACH_TEST]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{IN_EACH_TEST} mutants"), done.stdout


def test_the_bases_are_clean_and_hold_every_record(image_dir: Path) -> None:
    found = set()
    for name in BASES:
        path = image_dir / f"{name}.img"
        build_base(name, path)
        assert not findings_of(path)
        found |= set(Sites(path).by_name)
    assert found == {record.name for record in ALL_RECORDS}


def test_a_number_names_one_mutant(image_dir: Path) -> None:
    bench, again = (Bench(_made(image_dir / name)) for name in ("first", "second"))
    for number in random.Random(1).sample(range(10_000), 20):
        mutant = MutantId(SEED, number)
        assert bench.make(mutant) == again.make(mutant)
        assert fingerprint(bench.mutant_path) == fingerprint(again.mutant_path)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_sweep_visits_every_field_with_the_sum_wrong_and_right(image_dir: Path) -> None:
    path = image_dir / "base.img"
    build_base(BASES[-1], path)
    sites = Sites(path)
    mutator, seen = Mutator(sites), set()
    file = ImageFile(path)
    for number in range(sweep_length(sites)):
        damage = mutator.mutate(file, SEED, 2 * number)
        seen.add((damage.split(" at ")[0], damage.split(": ")[1].split(" =")[0]))
    file.close()
    wanted = {(record.name, field.name) for record in ALL_RECORDS for field in record.fields}
    assert seen == wanted


def test_a_failure_has_an_id_that_brings_it_back() -> None:
    command = [sys.executable, str(PROGRAM), "--replay", "7.4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("7.4 of ")


def test_every_view_of_the_inspector_is_taken(image_dir: Path) -> None:
    """None needs an argument that is not known, and each one prints something of a sound image."""
    path = image_dir / "base.img"
    build_base(CLOSED, path)
    taken = list(views())
    assert {arguments[0] for arguments in taken} == set(inspect_command.commands)
    assert ["extents", "{}", "--sort", "wear", "--"] in taken
    assert ["page", "{}", "--", "2049"] in taken
    filled = [[str(path) if part == "{}" else part for part in view] for view in taken]
    assert {view[0] for view in filled if take(view)} == set(inspect_command.commands)
    with pytest.raises(BrokenRuleError, match="rule 3"), validated_text():
        print("\x1b[2J")
