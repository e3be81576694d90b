import json
import subprocess
import sys
from pathlib import Path

from tests.unit.agent.bench import Bench, described


async def test_cut_off_before_anything_it_does_a_sync_leaves_the_old_or_the_new_tree_and_a_rerun_completes(
    bench: Bench,
) -> None:
    source = bench.folder / "source"
    (source / "read-only").mkdir(parents=True)
    (source / "same").write_text("same")
    (source / "changed").write_text("one")
    (source / "read-only/large").write_text("large" * 100_000)
    first = await bench.publish("1", source)
    (source / "changed").write_text("zero")
    bench.run(await bench.publish("0", source))
    (source / "changed").write_text("one")
    bench.run(first)
    old = described(source)
    (source / "changed").write_text("two")
    (source / "link").symlink_to("same")
    (source / "read-only/large").write_text("LARGE" * 100_000)
    (source / "read-only").chmod(0o555)
    second = await bench.publish("2", source)
    new = described(source)

    cuts = cut_everywhere(bench.plan(second), bench.root)

    assert len(cuts) > 30
    states = []
    for after_cut, done, status, after_rerun, leftovers in cuts:
        assert after_cut in (old, new)
        assert done in (None, first["fingerprint"] if after_cut == old else second["fingerprint"])
        assert (status, after_rerun) == (0, new)
        assert len(leftovers) == 4, "two trees and their records"
        states.append(after_cut == new)
    assert states == sorted(states), "once the new tree is there, it stays"
    assert {True, False} == set(states)


def cut_everywhere(plan: Path, root: Path) -> list[tuple[object, str | None, int, object, list[str]]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.agent.cuts", plan, root], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return [(tree_of(cut[0]), cut[1], cut[2], tree_of(cut[3]), cut[4]) for cut in found]


def tree_of(found: dict[str, list[object]]) -> dict[str, tuple[object, ...]]:
    return {path: tuple(facts) for path, facts in found.items()}
