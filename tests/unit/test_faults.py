"""The table of faults, its page, and the marks of the tests agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import FAULTS, PAGE, Fault, Place, Proof, marked, page, wrong


def test_the_page_is_what_the_table_and_the_marks_say() -> None:
    assert PAGE.read_text() == page(marked()), "run `python -m tests.faults`"


def test_every_fault_is_proven_wherever_it_must_be_and_every_mark_names_a_fault() -> None:
    assert wrong(marked()) == []
    assert list(FAULTS) == list(range(1, 45))


DARK = {1: Fault("the lights go out", "work goes on", (Place.UNIT, Place.WIRE))}


def proof(place: Place, *faults: int) -> Proof:
    return Proof("test_by_candlelight", "tests/candles.py", place, faults)


def test_what_is_lacking_or_unknown_is_said() -> None:
    assert wrong([proof(Place.UNIT, 1), proof(Place.WIRE, 1)], DARK) == []
    assert wrong([proof(Place.UNIT, 1)], DARK) == ["fault 1 (the lights go out) has no wire test"]
    assert wrong([proof(place, 1, 2) for place in Place][:1], DARK)[0].endswith("marked with 2, which is no fault")
    waiting = {1: Fault("the lights go out", "work goes on", (Place.UNIT,), waits="candles")}
    assert wrong([], waiting) == []


@pytest.mark.parametrize("mark", ["1 + 1", "number", "", "faults=1", "'1'"])
def test_a_mark_that_is_no_plain_number_is_refused(tmp_path: Path, mark: str) -> None:
    (tmp_path / "test_lights.py").write_text(f"@pytest.mark.fault({mark})\ndef test_dark() -> None: ...\n")
    with pytest.raises(ValueError, match="test_dark"):
        marked(tmp_path)


def test_what_tests_are_found_and_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "test_lights.py").write_text(
        "@pytest.mark.fault(1, 2)\n@given(x=st.text())\ndef test_drawn() -> None: ...\n\n"
        "@pytest.mark.fault(3)\nasync def test_awaited() -> None: ...\n\ndef test_of_nothing() -> None: ...\n"
    )
    found = [(each.name, each.place, each.faults) for each in marked(tmp_path)]
    assert found == [("test_drawn", Place.PROPERTY, (1, 2)), ("test_awaited", Place.UNIT, (3,))]
