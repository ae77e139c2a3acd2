"""Golden runs (golden.py): today's numbers are those of golden.json."""

from pathlib import Path

import pytest

import golden


@pytest.mark.skipif(not golden.comparable(), reason="golden.json was written on a processor with AVX2")
@pytest.mark.parametrize("name", golden.RUNS)
def test_numbers_are_those_of_before(name: str, tmp_path: Path, unchecked: None) -> None:
    new, old = golden.found(name, tmp_path), golden.stored()[name]  # on one thread
    lines = golden.differences(new, old, golden.RUNS[name].tolerance)
    versions = "" if new["torch"] == old["torch"] else f" of torch {old['torch']}, here is {new['torch']}"
    assert not lines, f"{name} differs from golden.json{versions}:\n" + "\n".join(lines)


def test_entries_are_those_of_the_runs() -> None:
    entries = golden.stored()
    assert list(entries) == list(golden.RUNS)
    assert [entry["why"] for entry in entries.values()] == [pinned.run.__doc__ for pinned in golden.RUNS.values()]


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit() -> None:
    """Entries that belong together are written on one machine."""
    entries = golden.stored()
    assert not golden.differences(entries["warmed_up_and_resumed"], entries["warmed_up"])
