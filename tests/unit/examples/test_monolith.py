"""The generator of the example's releases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from examples.monolith import Edition, broken_module, main, write_libraries, write_monolith

SMALL = 0.03


def contents(root: Path) -> Mapping[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def monolith(out: Path, **edition: object) -> Mapping[str, str]:
    write_monolith(out, Edition(scale=SMALL, **edition))  # type: ignore[arg-type]
    return contents(out / "monolith")


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def test_the_same_seed_and_version_give_the_same_bytes(tmp_path: Path) -> None:
    assert monolith(tmp_path / "one", version=3) == monolith(tmp_path / "two", version=3)


def test_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    assert monolith(tmp_path / "one") != monolith(tmp_path / "two", seed=2)


def test_work_spread_over_processes_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = monolith(tmp_path / "alone")
    monkeypatch.setattr("examples.monolith._PARALLEL_FROM", 0)
    assert monolith(tmp_path / "spread") == alone


@pytest.mark.parametrize("change", [0.02, 0.1])
def test_a_version_changes_exactly_its_part_of_the_files_and_only_sources(tmp_path: Path, change: float) -> None:
    before, after = monolith(tmp_path / "one"), monolith(tmp_path / "two", version=2, change=change)
    different = changed(before, after)
    assert before.keys() == after.keys()
    assert len(different) == round(change * len(before))
    assert all(path.startswith("src/") for path in different)


def test_changes_add_up_from_version_to_version(tmp_path: Path) -> None:
    two, three = monolith(tmp_path / "two", version=2), monolith(tmp_path / "three", version=3)
    assert len(changed(two, three)) == round(0.02 * len(two))
    assert len(changed(monolith(tmp_path / "one"), three)) > len(changed(two, three))


def test_a_release_names_its_version_below_src(tmp_path: Path) -> None:
    monolith(tmp_path, version=2)
    assert json.loads((tmp_path / "monolith/src/release.json").read_text())["version"] == "2"


def test_only_one_module_of_a_broken_release_does_not_compile(tmp_path: Path) -> None:
    good, bad = monolith(tmp_path / "good", version=2), monolith(tmp_path / "bad", version=2, broken=True)
    (module,) = changed(good, bad)
    assert module == broken_module(Edition(scale=SMALL, version=2))
    with pytest.raises(SyntaxError):
        compile((tmp_path / "bad/monolith" / module).read_text(), module, "exec")


def test_every_module_of_a_sound_release_compiles(tmp_path: Path) -> None:
    monolith(tmp_path, version=2)
    for module in (tmp_path / "monolith").rglob("*.py"):
        compile(module.read_text(), str(module), "exec")


def test_a_library_lists_the_digest_of_each_of_its_files(tmp_path: Path) -> None:
    write_libraries(tmp_path, scale=0.001)
    (package,) = (tmp_path / "libraries").glob("*/RECORD")
    recorded = dict(line.split(",")[:2] for line in package.read_text().splitlines())
    found = contents(tmp_path / "libraries")
    assert recorded == {path: found[path] for path in recorded}
    assert found.keys() - recorded.keys() == {"release.json", f"{package.parent.name}/RECORD"}


def test_a_folder_that_is_there_already_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "monolith").mkdir()
    assert main([str(tmp_path), "--only", "monolith", "--scale", str(SMALL)]) == 2
    assert "already there; name another folder, or delete it first" in capsys.readouterr().err
    assert list((tmp_path / "monolith").iterdir()) == []


def test_the_command_line_writes_both_components(tmp_path: Path) -> None:
    assert main([str(tmp_path), "--scale", "0.001", "--version", "2"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"libraries", "monolith"}
