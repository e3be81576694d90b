import asyncio
import hashlib
import json
import os
import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from agent import agent
from shared import packing
from tests.unit.agent.bench import Bench, described, script


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


def trees(bench: Bench) -> list[str]:
    return sorted(path.name for path in (bench.root / "srv/.app.trees").iterdir())


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


async def test_going_back_to_the_release_before_fetches_only_its_manifest(bench: Bench, source: Path) -> None:
    first = await bench.publish("1", source)
    bench.run(first)
    before = described(source)
    write(source, "app/main.py", b"print('two')\n")
    bench.run(await bench.publish("2", source))
    assert bench.run(first).end("code")["requests"] == 1
    assert described(bench.tree) == before


async def test_only_the_present_tree_and_the_one_before_it_are_kept(bench: Bench, source: Path) -> None:
    for version in ("1", "2", "3", "4"):
        write(source, "app/main.py", version.encode())
        bench.run(await bench.publish(version, source))
    assert trees(bench) == ["tree-3", "tree-3.json", "tree-4", "tree-4.json"]
    assert os.readlink(bench.tree) == ".app.trees/tree-4"


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
    size = packing.BLOCK_BYTES
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
    step = await changed_manifest(bench, source, {"path": path, "sha256": hashlib.sha256(b"").hexdigest()})
    assert "outside" in bench.run(step).end("code")["reason"]


async def test_nothing_is_written_through_a_link_of_the_release(bench: Bench, source: Path) -> None:
    entry = {"path": "link/out", "sha256": hashlib.sha256(b"").hexdigest()}
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
