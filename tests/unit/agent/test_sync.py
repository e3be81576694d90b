import asyncio
import hashlib
import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import agent
from shared import sources
from tests.unit.agent.bench import Bench, described, script, spare, trees

EMPTY = hashlib.sha256(b"").hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A release with everything that file systems allow."""
    directory = tmp_path / "source"
    write(directory, "app/main.py", b"print('one')\n")
    write(directory, "app/same-1", b"the same\n")
    write(directory, "app/same-2", b"the same\n")
    write(directory, "app/empty", b"")
    write(directory, "bin/tool", b"#!/bin/sh\n", 0o755)
    write(directory, "bin/setuid", b"s\n", 0o4750)
    write(directory, "read-only/file", b"r\n", 0o444)
    write(directory, "große Datei %41 \n'\"$(x).bin", random.Random(1).randbytes(1_000_000))
    write(directory, "copy-of-big.bin", random.Random(1).randbytes(1_000_000), 0o600)
    write(directory, os.fsdecode(b"not-utf-8-\xff\xfe"), b"bytes\n")
    (directory / "empty/below").mkdir(parents=True)
    (directory / "sticky").mkdir()
    (directory / "sticky").chmod(0o1777)
    (directory / "read-only").chmod(0o555)
    (directory / "link").symlink_to("app/main.py")
    (directory / "dangling").symlink_to(os.fsdecode(b"/no/such/\xff"))
    (directory / "app/up").symlink_to("..")
    return directory


def write(directory: Path, name: str, content: bytes, mode: int = 0o644) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


async def test_a_release_arrives_exactly_as_it_was_published(bench: Bench, source: Path) -> None:
    done = bench.run(await bench.publish("1", source))
    assert done.status == 0, done.result
    assert described(bench.tree) == described(source)
    assert bench.tree.is_symlink()
    assert not os.path.isabs(os.readlink(bench.tree))


async def test_what_was_moved_is_counted(bench: Bench, source: Path) -> None:
    end = bench.run(await bench.publish("1", source)).end("code")
    assert end["requests"] == len(bench.origin.requests) == 2
    assert end["bytes"] == sum(len(body) for body in bench.objects.bodies.values())
    assert bench.origin.reports[-1].steps[0].bytes == end["bytes"]


async def test_only_contents_that_are_not_on_disk_are_fetched(bench: Bench, source: Path) -> None:
    bench.run(await bench.publish("1", source))
    inode = (bench.tree / "bin/tool").stat().st_ino
    write(source, "app/main.py", b"print('two')\n")
    os.rename(source / "copy-of-big.bin", source / "app/moved.bin")
    (source / "bin/tool").chmod(0o700)
    step = await bench.publish("2", source)
    step["content"]["deltas"] = {}
    manifest = len(bench.objects.bodies["releases/app/2/manifest.json"])
    end = bench.run(step).end("code")
    assert end["bytes"] - manifest < 100
    assert described(bench.tree) == described(source)
    assert (bench.tree / "bin/setuid").stat().st_nlink == 2
    assert (bench.tree / "bin/tool").stat().st_ino != inode


async def test_a_few_blocks_of_a_pack_are_fetched_as_ranges(bench: Bench, source: Path) -> None:
    for number in range(12):
        write(source, f"big/{number:02}", random.Random(number).randbytes(400_000))
    first = await bench.publish("1", source)
    bench.run(first)
    for number in (0, 1, 10):
        write(source, f"big/{number:02}", b"small\n")
    bench.run(await bench.publish("2", source))
    write(source, "app/main.py", b"print('three')\n")
    bench.run(await bench.publish("3", source))
    bench.origin.requests.clear()
    end = bench.run(first).end("code")
    ranges = [span for _, span in bench.origin.requests if span]
    assert len(ranges) == 2
    assert end["bytes"] < 2_500_000
    assert (bench.tree / "big/10").read_bytes() == random.Random(10).randbytes(400_000)


async def test_an_origin_that_ignores_ranges_is_read_over(bench: Bench, source: Path) -> None:
    for number in range(6):
        write(source, f"big/{number:02}", random.Random(number).randbytes(400_000))
    first = await bench.publish("1", source)
    bench.run(first)
    (bench.tree / "big/03").unlink()
    bench.origin.ignores_ranges = True
    assert bench.run(first).status == 0
    assert (bench.tree / "big/03").read_bytes() == random.Random(3).randbytes(400_000)


async def test_going_back_to_the_release_before_fetches_nothing(bench: Bench, source: Path) -> None:
    first = await bench.publish("1", source)
    bench.run(first)
    before = described(source)
    write(source, "app/main.py", b"print('two')\n")
    bench.run(await bench.publish("2", source))
    assert bench.run(first).end("code")["requests"] == 0
    assert described(bench.tree) == before


async def test_only_the_present_tree_and_the_one_before_it_are_kept(bench: Bench, source: Path) -> None:
    for version in ("1", "2", "3", "4"):
        write(source, "app/main.py", version.encode())
        bench.run(await bench.publish(version, source))
    assert trees(bench) == ["tree-4", "tree-4.json", "tree-5", "tree-5.json"]
    assert os.readlink(bench.tree) == ".app.trees/tree-5"


async def test_a_standing_release_is_skipped_and_one_touched_by_hand_is_put_right(bench: Bench, source: Path) -> None:
    step = await bench.publish("1", source)
    bench.run(step)
    assert bench.run(step).ends == {"code": "skipped"}
    (bench.tree / "app/main.py").write_text("print('me!')\n")
    (bench.tree / "link").unlink()
    assert bench.run(step).ends == {"code": "done"}
    assert described(bench.tree) == described(source)


async def test_a_release_that_stands_without_an_entry_in_the_ledger_is_not_built_again(
    bench: Bench, source: Path
) -> None:
    step = await bench.publish("1", source)
    bench.run(step)
    (bench.root / agent.HOME / "ledger.json").unlink()
    end = bench.run(step).end("code")
    assert (end["result"], end["requests"]) == ("done", 0)
    assert os.readlink(bench.tree) == ".app.trees/tree-1"


async def test_a_copied_disk_whose_files_lost_their_times_is_not_fetched_again(bench: Bench, source: Path) -> None:
    step = await bench.publish("1", source)
    bench.run(step)
    bench.settle()
    for path in bench.tree.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert bench.run(step).end("code")["requests"] == 1
    assert described(bench.tree) == described(source)


async def test_a_broken_connection_is_taken_up_where_it_broke(bench: Bench, source: Path) -> None:
    step = await bench.publish("1", source)
    pack = next(iter(step["content"]["packs"]))
    bench.origin.breaks = {f"/releases/app/packs/{pack}": 700_000, "/releases/app/1/manifest.json": 10}
    done = bench.run(step)
    assert done.status == 0, done.result
    assert [span for _, span in bench.origin.requests if span] != []
    assert described(bench.tree) == described(source)


@pytest.mark.parametrize("damage", ["one byte", "short", "gone", "another", "forged"])
async def test_a_damaged_pack_is_refused_and_the_present_tree_stays(bench: Bench, source: Path, damage: str) -> None:
    bench.run(await bench.publish("1", source))
    before = described(source)
    write(source, "app/main.py", random.Random(3).randbytes(1000))
    step = await bench.publish("2", source)
    step["content"]["deltas"] = {}
    key = next(key for key in bench.objects.bodies if "/packs/" in key and len(bench.objects.bodies[key]) < 10_000)
    body = bench.objects.bodies.pop(key)
    damaged = {
        "one byte": body[:500] + bytes([body[500] ^ 1]) + body[501:],
        "short": body[:-100],
        "another": b"x" * len(body),
        "forged": zlib.compress(random.Random(4).randbytes(1000), 1),
    }
    if damage in damaged:
        bench.objects.bodies[key] = damaged[damage]
    done = bench.run(step)
    assert done.ends == {"code": "failed"}
    assert done.end("code")["reason"]
    assert described(bench.tree) == before
    bench.objects.bodies[key] = body
    assert bench.run(step).ends == {"code": "done"}
    assert described(bench.tree) == described(source)


async def test_a_large_file_that_is_not_what_the_manifest_says_is_refused(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path / "source", "large", random.Random(1).randbytes(700_000))
    step = await bench.publish("1", tmp_path / "source")
    key = next(key for key in bench.objects.bodies if "/packs/" in key)
    forged = random.Random(2).randbytes(700_000)
    size = sources.BLOCK_BYTES
    blocks = [zlib.compress(forged[at : at + size], 1) for at in range(0, len(forged), size)]
    assert len(b"".join(blocks)) == len(bench.objects.bodies[key])
    bench.objects.bodies[key] = b"".join(blocks)
    assert "large" in bench.run(step).end("code")["reason"]
    assert not bench.tree.exists()


async def test_a_manifest_that_the_plan_does_not_name_is_refused(bench: Bench, source: Path) -> None:
    step = await bench.publish("1", source)
    bench.objects.bodies["releases/app/1/manifest.json"] += b" "
    assert "not the one" in bench.run(step).end("code")["reason"]
    assert not bench.tree.exists()


@pytest.mark.parametrize("path", ["../out", "/etc/out", "a/../../out", "%2e%2e/out", "a//out", ""])
async def test_a_manifest_with_a_path_outside_is_refused(bench: Bench, source: Path, path: str) -> None:
    step = await changed_manifest(bench, source, {"path": path, "sha256": EMPTY})
    assert "outside" in bench.run(step).end("code")["reason"]


async def test_nothing_is_written_through_a_link_of_the_release(bench: Bench, source: Path) -> None:
    entry = {"path": "link/out", "sha256": EMPTY}
    (source / "link").unlink()
    (source / "link").symlink_to(bench.folder)
    assert bench.run(await changed_manifest(bench, source, entry)).ends == {"code": "failed"}
    assert not (bench.folder / "out").exists()


async def changed_manifest(bench: Bench, source: Path, entry: dict[str, str]) -> dict[str, Any]:
    step = await bench.publish("1", source)
    key = "releases/app/1/manifest.json"
    manifest = json.loads(bench.objects.bodies[key])
    manifest["entries"].append(entry)
    bench.objects.bodies[key] = json.dumps(manifest).encode()
    step["content"]["manifest_sha256"] = hashlib.sha256(bench.objects.bodies[key]).hexdigest()
    return step


async def test_a_directory_that_is_not_ours_is_not_replaced(bench: Bench, source: Path) -> None:
    write(bench.tree, "precious", b"data")
    done = bench.run(await bench.publish("1", source))
    assert "not ours" in done.end("code")["reason"]
    assert (bench.tree / "precious").read_bytes() == b"data"


async def test_an_empty_directory_gives_way(bench: Bench, source: Path) -> None:
    bench.tree.mkdir(parents=True)
    assert bench.run(await bench.publish("1", source)).status == 0


async def test_steps_see_one_path_whatever_release_is_there(bench: Bench, source: Path) -> None:
    for version in ("1", "2"):
        write(source, "app/main.py", version.encode())
        step = await bench.publish(version, source)
        bench.run(step, script("read", 'cat "$SERVER_ROOT/srv/app/app/main.py" > seen', fingerprint=version))
        assert (bench.root / "seen").read_text() == version


async def test_a_sync_that_takes_too_long_is_given_up_and_the_present_tree_stays(bench: Bench, source: Path) -> None:
    bench.run(await bench.publish("1", source))
    before = described(source)
    write(source, "app/main.py", random.Random(3).randbytes(1000))
    step = await bench.publish("2", source)
    step["content"]["deltas"] = {}
    step["content"]["packs"] = dict.fromkeys(step["content"]["packs"], bench.origin.url + "/nothing")
    done = bench.run({**step, "timeout_s": 0.3})
    assert done.end("code")["reason"] == "not done within 0.3 s"
    assert described(bench.tree) == before


async def test_killed_at_any_moment_a_sync_leaves_a_whole_tree_and_can_be_run_again(bench: Bench, source: Path) -> None:
    for number in range(400):
        write(source, f"many/{number}", random.Random(number).randbytes(3000))
    first = await bench.publish("1", source)
    old = described(source)
    for number in range(0, 400, 2):
        write(source, f"many/{number}", random.Random(-number).randbytes(3000))
    second = await bench.publish("2", source)
    new = described(source)
    bench.run(first)
    moments = random.Random(5)
    for _ in range(8):
        process = bench.start(second)
        await asyncio.sleep(moments.uniform(0.05, 0.4))
        process.kill()
        process.communicate()
        assert described(bench.tree) in (old, new)
        if bench.ledger.get("code", first)["fingerprint"] == second["fingerprint"]:
            assert described(bench.tree) == new
        assert bench.run(second).status == 0
        assert described(bench.tree) == new
        assert bench.run(first).status == 0
        assert described(bench.tree) == old


async def two_versions(bench: Bench, source: Path) -> dict[str, Any]:
    """Bring the first of two releases that differ in text and inside a large file; return the step of the second."""
    write(source, "app/notes", b"".join(b"line %d\n" % number for number in range(5000)))
    bench.run(await bench.publish("1", source))
    write(source, "app/notes", (source / "app/notes").read_bytes() + b"one more\n")
    large = random.Random(1).randbytes(1_000_000)
    write(source, "copy-of-big.bin", large[:500_000] + b"put in" + large[500_000:], 0o600)
    write(source, "app/new", b"new\n")
    write(source, "app/new-too", b"new\n", 0o600)
    bench.origin.requests.clear()
    return await bench.publish("2", source)


async def test_a_delta_brings_what_changed_inside_files_in_one_request(bench: Bench, source: Path) -> None:
    step = await two_versions(bench, source)
    end = bench.run(step).end("code")
    [(delta, _)] = [asked for asked in bench.origin.requests if "manifest" not in asked[0]]
    assert "/deltas/" in delta
    assert end["bytes"] - len(bench.objects.bodies["releases/app/2/manifest.json"]) < 1000
    assert described(bench.tree) == described(source)


@pytest.mark.parametrize(
    "trouble", ["one byte", "gone", "unreadable", "another form", "outside", "link", "forged", "none"]
)
async def test_without_a_delta_that_is_of_use_the_packs_bring_the_release(
    bench: Bench, source: Path, trouble: str
) -> None:
    step = await two_versions(bench, source)
    [delta] = step["content"]["deltas"].values()
    key = delta["url"].removeprefix(bench.origin.url + "/")
    body = bench.objects.bodies.pop(key)
    outside = b'{"form": 1, "removed": ["../bin"], "entries": [], "recipes": {}}\n'
    through = {"form": 1, "removed": [], "entries": [{"path": "dangling/x", "sha256": EMPTY}], "recipes": {}}
    others = {"unreadable": b"x", "another form": zlib.compress(b'{"form": 2}\n'), "outside": zlib.compress(outside)}
    others["link"] = zlib.compress(json.dumps(through).encode() + b"\n")
    if trouble in others:
        bench.objects.bodies[key] = others[trouble]
        delta["sha256"] = hashlib.sha256(others[trouble]).hexdigest()
    elif trouble == "one byte":
        bench.objects.bodies[key] = body[:50] + bytes([body[50] ^ 1]) + body[51:]
    elif trouble == "forged":
        bench.objects.bodies[key] = zlib.compress(zlib.decompress(body).replace(b'"mode":384', b'"mode":511'))
    elif trouble == "none":
        step["content"]["deltas"] = {}
    assert bench.run(step).ends == {"code": "done"}
    assert any("/packs/" in path for path, _ in bench.origin.requests)
    assert described(bench.tree) == described(source)


async def test_a_delta_that_broke_off_is_fetched_again(bench: Bench, source: Path) -> None:
    step = await two_versions(bench, source)
    [delta] = step["content"]["deltas"].values()
    bench.origin.breaks = {delta["url"].removeprefix(bench.origin.url): 10}
    assert bench.run(step).end("code")["requests"] == 2
    assert described(bench.tree) == described(source)


@pytest.mark.parametrize("how", ["changed", "shorter", "gone", "directory"])
async def test_a_content_whose_earlier_file_is_another_by_now_comes_from_the_packs(
    bench: Bench, source: Path, how: str
) -> None:
    step = await two_versions(bench, source)
    earlier = spare(bench) / "copy-of-big.bin"
    if how in {"changed", "shorter"}:
        earlier.write_bytes(b"x" * (1_000_000 if how == "changed" else 10))
    else:
        earlier.unlink()
    if how == "directory":
        earlier.mkdir()
        (earlier / "precious").touch()
    (bench.tree / "copy-of-big.bin").unlink(missing_ok=True)
    assert bench.run(step).ends == {"code": "done"}
    assert any("/packs/" in path for path, _ in bench.origin.requests)
    assert described(bench.tree) == described(source)


async def test_what_was_put_into_a_tree_does_not_come_back_with_the_release_after_the_next(
    bench: Bench, source: Path
) -> None:
    first = await bench.publish("1", source)
    bench.run(first)
    before = described(source)
    write(bench.tree, "app/stray", b"mine\n")
    write(bench.tree, "stray/below", b"mine\n")
    for version in ("2", "3"):
        write(source, "app/main.py", version.encode())
        bench.run(await bench.publish(version, source))
        assert described(bench.tree) == described(source)
    assert bench.run(first).status == 0
    assert described(bench.tree) == before


async def test_what_was_replaced_by_hand_is_not_taken_over_where_there_was_no_spare_tree(
    bench: Bench, source: Path
) -> None:
    step = await two_versions(bench, source)
    agent.remove_tree(os.fsencode(spare(bench)))
    touched = bench.tree / "app/main.py"
    touched.unlink()
    touched.write_text("print('me!')\n")
    assert bench.run(step).end("code")["requests"] > 1
    assert described(bench.tree) == described(source)


async def test_a_delta_is_one_request_where_there_is_no_spare_tree_too(bench: Bench, source: Path) -> None:
    step = await two_versions(bench, source)
    agent.remove_tree(os.fsencode(spare(bench)))
    before = described(bench.tree)
    assert bench.run(step).end("code")["requests"] == 1
    assert described(bench.tree) == described(source)
    assert described(spare(bench)) == before


async def test_what_goes_wrong_in_making_a_spare_tree_is_said(
    bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = await two_versions(bench, source)
    agent.remove_tree(os.fsencode(spare(bench)))
    before = described(bench.tree)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(agent, "link_files", full)
    with pytest.raises(OSError, match="No space left on device"):
        agent.Sync(agent.Trees(str(bench.root), "srv/app"), step["content"], agent.Moved()).run()
    assert described(bench.tree) == before


async def test_what_is_replaced_while_the_spare_tree_is_made_is_not_taken_over(
    bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = await two_versions(bench, source)
    agent.remove_tree(os.fsencode(spare(bench)))
    touched = bench.tree / "app/main.py"

    def late(work: Callable[[], object]) -> Callable[[], object]:
        def outcome() -> object:
            touched.unlink()
            touched.write_text("print('me!')\n")
            return work()

        return outcome

    monkeypatch.setattr(agent, "beside", late)
    monkeypatch.setattr(agent, "halves", lambda tasks: (tasks, []))
    agent.Sync(agent.Trees(str(bench.root), "srv/app"), step["content"], agent.Moved()).run()
    assert described(bench.tree) == described(source)


async def test_a_folder_of_the_spare_tree_that_became_a_link_is_not_written_through(bench: Bench, source: Path) -> None:
    step = await two_versions(bench, source)
    elsewhere = bench.folder / "elsewhere"
    shutil.move(spare(bench) / "app", elsewhere)
    (spare(bench) / "app").symlink_to(elsewhere)
    before = described(elsewhere)
    assert bench.run(step).status == 0
    assert described(bench.tree) == described(source)
    assert described(elsewhere) == before


@pytest.mark.parametrize("delta", [True, False])
async def test_entries_of_every_kind_become_those_of_every_other(bench: Bench, tmp_path: Path, delta: bool) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    kinds = ("nothing", "file", "folder", "full", "link")
    for old in kinds:
        for new in kinds:
            for place, kind in ((one, old), (two, new)):
                put(place / "read-only" / f"{old}-{new}", kind)
    for place in (one, two):
        (place / "read-only").chmod(0o555)
    first, second = await bench.publish("1", one), await bench.publish("2", two)
    if not delta:
        first["content"]["deltas"] = second["content"]["deltas"] = {}
    for step, place in ((first, one), (second, two), (first, one), (second, two)):
        assert bench.run(step).status == 0
        assert described(bench.tree) == described(place)


def put(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text(f"of {path.parent.parent.name}")
    elif kind in {"folder", "full"}:
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nowhere")
    if kind == "full":
        (path / "below").write_text("below")


async def test_without_a_delta_only_what_is_new_of_an_edited_large_file_is_fetched(bench: Bench, source: Path) -> None:
    step = await two_versions(bench, source)
    step["content"]["deltas"] = {}
    end = bench.run(step).end("code")
    assert end["bytes"] - len(bench.objects.bodies["releases/app/2/manifest.json"]) < 100_000
    assert described(bench.tree) == described(source)


async def test_records_of_trees_that_the_agent_before_made_are_read(bench: Bench, source: Path) -> None:
    step = await two_versions(bench, source)
    for name in trees(bench):
        if name.endswith(".json"):
            as_before(bench.root / "srv/.app.trees" / name)
    assert bench.run(step).end("code")["requests"] < 5
    assert described(bench.tree) == described(source)


def as_before(path: Path) -> None:
    tree = agent.Tree(os.fsencode(path.parent), os.fsencode(path.stem))
    assert tree.load()
    record = {
        "manifest_sha256": tree.manifest_sha256,
        "files": {os.fsdecode(name): known for name, known in tree.files.items()},
        "others": {os.fsdecode(name): (at.mode, os.fsdecode(at.target)) for name, at in tree.others.items()},
    }
    path.write_text(json.dumps(record))


def test_a_record_that_has_grown_long_is_written_anew(tmp_path: Path) -> None:
    tree = agent.Tree(os.fsencode(tmp_path), b"tree-1")
    tree.save()
    for number in range(60):
        change = agent.Tree(os.fsencode(tmp_path), b"tree-1")
        change.files = {b"file-%d" % number: agent.Known("sha", 0o644, number, number)}
        change.manifest_sha256 = str(number)
        again = agent.Tree(os.fsencode(tmp_path), b"tree-1")
        assert again.load("others")
        again.append([b"file-%d" % (number - 2)], change)
        assert again.identity() == str(number)
    assert again.load()
    assert set(again.files) == {b"file-59", b"file-58"}
    assert len(Path(os.fsdecode(tree.record_path)).read_text().splitlines()) < 5 * agent.RECORD_CHANGES + 10


async def test_a_second_tree_costs_no_space(bench: Bench, source: Path) -> None:
    bench.run(await bench.publish("1", source))
    assert described(spare(bench)) == described(source)
    assert (spare(bench) / "bin/tool").stat().st_ino == (bench.tree / "bin/tool").stat().st_ino


async def test_a_file_that_was_written_to_in_place_is_put_right_in_the_background(bench: Bench, source: Path) -> None:
    step = await two_versions(bench, source)
    with (bench.tree / "bin/tool").open("r+b") as stream:
        stream.write(b"mine")
    assert bench.run(step).end("code")["requests"] == 1
    assert bench.run(step).ends == {"code": "skipped"}
    assert described(bench.tree) == described(source)


async def test_a_manifest_is_read_wherever_the_pieces_end_that_it_is_read_in(
    bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.publish("1", source)
    path = bench.folder / "manifest"
    body = bench.objects.bodies["releases/app/1/manifest.json"]
    for layout in (body, json.dumps(json.loads(body), indent=2).encode()):
        path.write_bytes(layout)
        monkeypatch.setattr(agent, "PIECE_BYTES", 1_000_000)
        whole = agent.Manifest(os.fsencode(path)).release(agent.ALL)
        first = layout.index(b'"entries"') + 20
        for length in range(first, len(layout) + 1):
            monkeypatch.setattr(agent, "PIECE_BYTES", length)
            read = agent.Manifest(os.fsencode(path)).release(agent.ALL)
            assert (read.files, read.folders, read.links) == (whole.files, whole.folders, whole.links), length
            assert read.blocks == whole.blocks


async def sync_in_shards(bench: Bench, step: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring a release as an agent does whose memory is tiny."""
    monkeypatch.setattr(agent, "SHARD_BYTES", 700)
    monkeypatch.setattr(agent, "PIECE_BYTES", 300)
    agent.Sync(agent.Trees(str(bench.root), step["to"]), step["content"], agent.Moved()).run()


@pytest.mark.parametrize("delta", [True, False])
async def test_a_release_that_does_not_fit_into_memory_arrives_in_parts(
    bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch, delta: bool
) -> None:
    first = await bench.publish("1", source)
    before = described(source)
    assert len(bench.objects.bodies["releases/app/1/manifest.json"]) > 3 * 700
    await sync_in_shards(bench, first, monkeypatch)
    assert described(bench.tree) == before
    assert described(spare(bench)) == before
    (source / "app/empty").unlink()
    (source / "app/empty").mkdir()
    write(source, "app/empty/below", b"more\n")
    agent.remove(os.fsencode(source / "sticky"))
    write(source, "sticky", b"a file by now\n")
    write(source, "app/main.py", b"print('two')\n")
    write(spare(bench), "bin/stray", b"mine\n")
    second = await bench.publish("2", source)
    second["content"]["deltas"] = second["content"]["deltas"] if delta else {}
    await sync_in_shards(bench, second, monkeypatch)
    assert described(bench.tree) == described(source)
    requests = len(bench.origin.requests)
    await sync_in_shards(bench, second, monkeypatch)
    assert len(bench.origin.requests) == requests
    await sync_in_shards(bench, first, monkeypatch)
    assert described(bench.tree) == before


async def test_whichever_file_of_many_is_not_as_it_was_put_there_the_tree_does_not_stand(
    bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = await bench.publish("1", source)
    trees, goal = agent.Trees(str(bench.root), step["to"]), step["content"]["manifest_sha256"]
    agent.Sync(trees, step["content"], agent.Moved()).run()
    monkeypatch.setattr(agent, "FEW_FILES", 1)
    assert trees.stands(goal)
    files = [path for path in bench.tree.resolve().rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 3
    for path in files:
        away = path.rename(bench.root / "away")
        assert not trees.stands(goal), path
        away.rename(path)
    assert trees.stands(goal)
