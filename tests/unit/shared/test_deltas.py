import json
import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from shared import deltas, releases
from tests.fakes import FakeObjects


async def delta_of(objects: FakeObjects, source: Path) -> tuple[dict[str, Any], bytes] | None:
    """Publish what is there as the second release; return the head and the rest of the delta to it."""
    await releases.publish(objects, "app", "2", source)
    found = [body for key, body in objects.bodies.items() if "/deltas/" in key]
    if not found:
        return None
    head, literals = zlib.decompress(found[0]).split(b"\n", 1)
    return json.loads(head), literals


@pytest.fixture
def objects() -> FakeObjects:
    return FakeObjects()


@pytest.fixture
async def source(objects: FakeObjects, tmp_path: Path) -> Path:
    """A directory, published as the first release."""
    (tmp_path / "text").write_bytes(random.Random(1).randbytes(64))
    (tmp_path / "gone").mkdir()
    (tmp_path / "same").write_text("same")
    (tmp_path / "large").write_bytes(random.Random(2).randbytes(600_000))
    await releases.publish(objects, "app", "1", tmp_path)
    return tmp_path


async def test_a_delta_says_what_is_made_from_what(objects: FakeObjects, source: Path) -> None:
    (source / "text").write_bytes(b"new" + (source / "text").read_bytes())
    (source / "gone").rmdir()
    (source / "same").rename(source / "moved")
    (source / "more").write_text("more")
    made = await delta_of(objects, source)
    assert made is not None
    head, literals = made
    entries = {entry["path"]: entry for entry in head["entries"]}
    assert set(entries) == {"text", "moved", "more"}
    assert sorted(head["removed"]) == ["gone", "same"]
    assert {path: head["recipes"][entry["sha256"]] for path, entry in entries.items()} == {
        "text": ["text", [3, 0, 64]],
        "moved": ["same", [0, 0, 4]],
        "more": ["", [4, 0, 0]],
    }
    assert literals in {b"newmore", b"morenew"}
    assert head["base"] == (await releases.manifest(objects, "app", "1")).digest


async def test_what_is_too_much_comes_from_the_packs(
    objects: FakeObjects, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "MOST_NEW", 10)
    (source / "large").write_bytes(random.Random(3).randbytes(600_000))
    (source / "one").write_text("1 little")
    (source / "two").write_text("2 little, longer")
    made = await delta_of(objects, source)
    assert made is not None
    head, literals = made
    assert literals == b"1 little"
    packed = {entry["path"]: len(entry.get("blocks", [])) for entry in head["entries"]}
    assert packed == {"one": 0, "two": 1, "large": 3}
    assert [size for _, _, _, size in head["blocks"]][:3] == [262_144, 262_144, 75_712]


async def test_no_delta_is_made_when_very_much_has_changed(
    objects: FakeObjects, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "MOST_ENTRIES", 1)
    (source / "one").write_text("1")
    (source / "two").write_text("2")
    assert await delta_of(objects, source) is None
