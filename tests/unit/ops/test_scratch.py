from pathlib import Path

import pytest

from ops import scratch
from ops.scratch import UnusableFolder, empty_folder, make_folder


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(scratch, "MEMORY", memory)
    monkeypatch.setattr(scratch, "PLENTY_BYTES", 10**18)
    return memory


def test_with_plenty_of_memory_the_folder_is_a_link_into_it(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "PLENTY_BYTES", 0)

    where = make_folder(tmp_path / "stack")

    assert where.parent == memory
    assert (tmp_path / "stack").resolve() == where
    assert make_folder(tmp_path / "stack") == where


def test_without_it_the_folder_is_itself(tmp_path: Path, memory: Path) -> None:
    assert make_folder(tmp_path / "stack") == tmp_path / "stack"
    assert list(memory.iterdir()) == []


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")

    with pytest.raises(UnusableFolder, match="name an empty or new folder"):
        make_folder(tmp_path / "letters")
    empty_folder(tmp_path / "letters")

    assert (tmp_path / "letters" / "dear.txt").read_text() == "dear"


def test_emptying_keeps_what_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "stack")
    for name in ("disks", "logs"):
        (folder / name).mkdir()
        (folder / name / "one").touch()

    empty_folder(folder, keep="logs")

    assert (folder / "logs" / "one").exists()
    assert not (folder / "disks").exists()


def test_a_folder_is_handed_out_empty(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "stack")
    (folder / "left-over").touch()

    assert not (make_folder(tmp_path / "stack") / "left-over").exists()


def test_a_folder_that_cannot_be_made_gets_a_sentence() -> None:
    with pytest.raises(UnusableFolder, match=r"/proc/nope cannot be used: .*; name another"):
        make_folder(Path("/proc/nope"))
