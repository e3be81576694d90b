from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.manifests import Entry, Manifest, PackInfo
from shared.outlines import outline

ENTRIES = (
    Entry(path=".", kind="dir", mode=0o755),
    Entry(path='src/a "quoted", [odd] } name.py', size=3, sha256="1" * 64),
    Entry(path="src/ünïcode/b.py", size=4, sha256="2" * 64, blocks=(0, 1)),
    Entry(path="docs/link", kind="link", target="../src"),
)
MANIFEST = Manifest(
    form=1,
    component="app",
    version="7",
    entries=ENTRIES,
    packs=(PackInfo(sha256="a" * 64, length=10),),
    blocks=((0, 0, 5, 9), (0, 5, 5, 9)),
)
STORED = MANIFEST.model_dump_json().encode()
SOURCES = ("src/**",)
ALL = ("**",)


def test_an_outline_tells_the_release_its_packs_and_what_is_read_of_it() -> None:
    found = outline(STORED, [SOURCES, ALL])
    assert (found.component, found.version, found.packs) == ("app", "7", ("a" * 64,))
    assert found.digest == hashlib.sha256(STORED).hexdigest()
    assert [found.inputs[globs].files for globs in (SOURCES, ALL)] == [2, 3]


def changed(**entry: Any) -> bytes:
    other = ENTRIES[1].model_copy(update=entry)
    return MANIFEST.model_copy(update={"entries": (ENTRIES[0], other, *ENTRIES[2:])}).model_dump_json().encode()


@pytest.mark.parametrize("entry", [{"path": "src/other"}, {"mode": 0o755}, {"sha256": "3" * 64}])
def test_what_a_step_reads_is_another_when_path_mode_or_content_is(entry: dict[str, Any]) -> None:
    assert outline(changed(**entry), [SOURCES]).inputs != outline(STORED, [SOURCES]).inputs


def test_what_a_step_reads_is_the_same_however_it_is_packed() -> None:
    packed = changed(blocks=(4,), offset=9)
    assert outline(packed, [SOURCES]).inputs == outline(STORED, [SOURCES]).inputs


@pytest.mark.parametrize("indent", [None, 0, 3])
def test_the_order_of_members_and_white_space_make_no_difference(indent: int | None) -> None:
    members = dict(reversed(json.loads(STORED).items()))
    spaced = json.dumps(members, indent=indent).encode()
    assert outline(spaced, [ALL]).inputs == outline(STORED, [ALL]).inputs


def test_a_release_without_a_file_has_an_outline_too() -> None:
    empty = MANIFEST.model_copy(update={"entries": ()})
    assert outline(empty.model_dump_json().encode(), [ALL]).inputs[ALL].files == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"form":1', b'"form":2'),
        (b'"version":"7",', b""),
        (b'"entries":', b'"others":'),
        (b'"entries":[', b'"entries":{'),
        (b'"kind":"link"', b'"kind":"door"'),
        (b'"mode":493', b'"mode":"all"'),
    ],
)
def test_a_manifest_of_another_form_is_refused(old: bytes, new: bytes) -> None:
    assert old in STORED
    with pytest.raises(ValueError, match=r".+"):
        outline(STORED.replace(old, new, 1), [ALL])


@given(st.integers(0, len(STORED) - 1))
def test_a_manifest_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r".+"):
        outline(STORED[:length], [ALL])


@pytest.mark.parametrize("more", [b"}", b'{"form":1}', b",", b"x"])
def test_a_manifest_with_more_after_its_end_is_refused(more: bytes) -> None:
    with pytest.raises(ValueError, match="more after the end"):
        outline(STORED + more, [ALL])
