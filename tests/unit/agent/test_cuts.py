import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent import agent
from tests.unit.agent.bench import Bench, described, script, spare

Facts = dict[str, tuple[object, ...]]


class Cut(NamedTuple):
    """A run that was cut off, and the run after it."""

    tree: Facts
    done: dict[str, str]
    again: int
    tree_again: Facts
    leftovers: list[str]
    done_again: dict[str, str]


async def two_releases(bench: Bench) -> tuple[dict[str, Any], Facts, dict[str, Any], Facts]:
    """Put a release and one before it on the server; return its step and tree, and those of the next."""
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
    return first, dict(old), await bench.publish("2", source), dict(described(source))


@pytest.mark.parametrize("has_spare", [True, False], ids=["spare tree", "no spare tree"])
async def test_cut_off_before_anything_it_does_a_sync_leaves_the_old_or_the_new_tree_and_a_rerun_completes(
    bench: Bench, has_spare: bool
) -> None:
    first, old, second, new = await two_releases(bench)
    if not has_spare:
        agent.remove_tree(os.fsencode(spare(bench)))

    cuts = cut_everywhere(bench.plan(second), bench.root)

    assert len(cuts) > 25
    states = []
    for cut in cuts:
        assert cut.tree in (old, new)
        assert cut.done.get("code") in (None, first["fingerprint"] if cut.tree == old else second["fingerprint"])
        assert (cut.again, cut.tree_again) == (0, new)
        assert len(cut.leftovers) == 4, "two trees and their records"
        states.append(cut.tree == new)
    assert states == sorted(states), "once the new tree is there, it stays"
    assert {True, False} == set(states)


async def test_cut_off_anywhere_a_plan_whose_steps_run_side_by_side_is_completed_by_a_rerun(bench: Bench) -> None:
    _, old, second, new = await two_releases(bench)
    others = [
        script("one", "cat two >> one || true; echo x > two"),
        script("last", "echo x > last", needs=["code", "one"]),
    ]

    cuts = cut_everywhere(bench.plan(second, *others, parallel=3), bench.root)

    complete = {"code": second["fingerprint"], "one": "1", "last": "1"}
    assert len(cuts) > 50
    for cut in cuts:
        assert cut.tree in (old, new)
        for step, fingerprint in cut.done.items():
            assert fingerprint == complete[step] or (step == "code" and cut.tree == old)
        if "last" in cut.done:
            assert cut.done == complete, "it needs the others"
        assert (cut.again, cut.tree_again, cut.done_again) == (0, new, complete)
    assert any(len(cut.done) == 1 for cut in cuts)


def cut_everywhere(plan: Path, root: Path) -> list[Cut]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.agent.cuts", plan, root], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [Cut(*cut) for cut in json.loads(done.stdout)]
    return [cut._replace(tree=tree_of(cut.tree), tree_again=tree_of(cut.tree_again)) for cut in found]


def tree_of(found: Facts) -> Facts:
    return {path: tuple(facts) for path, facts in found.items()}
