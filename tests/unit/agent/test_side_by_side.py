"""Several steps at once, several tries of one, and steps as another user."""

import os
import pwd
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import agent
from tests.fakes import FakeObjects
from tests.unit.agent.bench import Bench, Origin, ran, script
from tests.unit.agent.test_plan_and_run import is_running, pid_in, wait_for

MEET = "touch here-{me}; until [ -e here-{other} ]; do sleep 0.01; done"
"""Ends only when another step runs at the same time."""


def test_steps_that_do_not_need_each_other_run_at_once_as_many_as_the_plan_says(bench: Bench) -> None:
    done = bench.run(
        script("one", MEET.format(me=1, other=2)),
        script("two", MEET.format(me=2, other=1)),
        script("three", "[ -e here-1 ] && [ -e here-2 ]", needs=["one", "two"]),
        parallel=2,
    )
    assert done.ends == {"one": "done", "two": "done", "three": "done"}
    assert [event["step"] for event in done.events[:2]] == ["one", "two"]


def test_no_more_steps_run_at_once_than_the_plan_says(bench: Bench) -> None:
    text = "mkdir only-me || exit 1; sleep 0.1; rmdir only-me"
    steps = [script(f"s{number}", text) for number in range(3)]
    assert bench.run(*steps).status == 0
    assert bench.run(*(dict(step, fingerprint="2") for step in steps), parallel=3).status == 1


def test_a_step_waits_for_those_that_it_needs_and_for_no_others(bench: Bench) -> None:
    done = bench.run(
        script("slow", "until [ -e after ]; do sleep 0.01; done"),
        script("first", "true"),
        script("after", "touch after", needs=["first"]),
        parallel=2,
    )
    assert done.status == 0
    told = [(event["event"], event["step"]) for event in done.events[:4]]
    assert told == [("begin", "slow"), ("begin", "first"), ("end", "first"), ("begin", "after")]


def test_when_a_step_fails_those_at_work_end_by_themselves_and_nothing_more_begins(bench: Bench) -> None:
    done = bench.run(
        script("long", "until [ -e failed ]; do sleep 0.01; done; sleep 0.2; touch long-done"),
        script("bad", "touch failed; exit 3"),
        script("next", "touch never"),
        parallel=2,
    )
    assert done.ends == {"bad": "failed", "long": "done"}
    assert set(bench.ledger) == {"long"}, "the next attempt finds it done"
    assert not (bench.root / "never").exists()
    last = bench.origin.reports[-1]
    assert (last.state, last.step) == ("failed", "bad")
    assert last.reason == "step bad failed: the script ended with status 3"
    assert [step.result for step in last.steps] == ["done", "failed"]


def test_each_step_has_its_own_time_limit(bench: Bench) -> None:
    done = bench.run(
        script("ends", "sleep 0.6"),
        script("hangs", "sleep 300", timeout_s=0.2),
        parallel=2,
    )
    assert done.ends == {"hangs": "failed", "ends": "done"}
    assert done.end("hangs")["reason"] == "not done within 0.2 s"


def test_sigterm_ends_all_steps_and_each_is_reported(bench: Bench) -> None:
    texts = {"one": "echo $$ > one; sleep 300", "two": "trap '' TERM; echo $$ > two; sleep 300 & wait; sleep 300"}
    process = bench.start(*(script(step, text) for step, text in texts.items()), parallel=2)
    pids = [pid_in(bench.root / step) for step in texts]
    process.terminate()
    output, errors = process.communicate(timeout=20)
    done = ran(process.returncode, output, errors)
    assert {done.end(step)["reason"] for step in texts} == {"stopped by SIGTERM"}
    assert not any(is_running(pid) for pid in pids)
    assert [step.result for step in bench.origin.reports[-1].steps] == ["failed", "failed"]
    assert list((bench.root / agent.HOME / "running").iterdir()) == []


def test_all_that_a_killed_agent_left_running_is_ended_before_anything_runs_again(bench: Bench) -> None:
    text = "echo $$ >> {0}; [ $(wc -l < {0}) -gt 1 ] || sleep 300"
    steps = [script(name, text.format(name)) for name in ("one", "two")]
    process = bench.start(*steps, parallel=2)
    left = [pid_in(bench.root / name) for name in ("one", "two")]
    process.kill()
    process.communicate()
    assert all(is_running(pid) for pid in left)
    assert bench.run(*steps, parallel=2).ends == {"one": "done", "two": "done"}
    assert not any(is_running(pid) for pid in left)


async def test_a_killed_agents_sync_lets_go_of_the_servers_lock(bench: Bench) -> None:
    source = bench.folder / "source"
    source.mkdir()
    (source / "file").write_text("content")
    step = await bench.publish("1", source)
    bench.origin.hold.clear()
    process = bench.start(step)
    wait_for(lambda: bool(bench.origin.requests), "the sync at work")
    [note] = (bench.root / agent.HOME / "running").iterdir()
    process.kill()
    process.wait()
    assert is_running(int(note.name))
    again = bench.start(step)
    wait_for(lambda: not is_running(int(note.name)), "the end of the first one's sync")
    bench.origin.hold.set()
    output, errors = again.communicate(timeout=20)
    assert ran(again.returncode, output, errors).ends == {"code": "done"}
    process.communicate()


def test_a_running_step_is_named_in_the_reports_and_what_it_used_is_told(bench: Bench) -> None:
    busy = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    done = bench.run(script("busy", f"#!/usr/bin/python3\n{busy}\n"), script("idle", "sleep 0.4"), parallel=2)
    assert bench.origin.reports[0].step == "busy"
    used = {step.step: step.cpu_seconds for step in bench.origin.reports[-1].steps}
    assert used["busy"] >= 0.3
    assert used["idle"] < 0.3 < done.end("idle")["seconds"]


def test_a_step_that_fails_is_tried_again_and_each_try_is_in_the_report(bench: Bench) -> None:
    text = "echo try; echo x >> tries; [ $(wc -l < tries) -gt 2 ]"
    done = bench.run(
        script("one", "echo x >> ones"), script("two", text, retry={"tries": 3, "pause_s": 0.05}, needs=["one"])
    )
    assert done.ends == {"one": "done", "two": "done"}
    assert (bench.root / "ones").read_text() == "x\n", "only the step itself is tried again"
    [two] = [step for step in bench.origin.reports[-1].steps if step.step == "two"]
    failed = "the script ended with status 1"
    assert [each.reason for each in two.tries] == [failed, failed, ""]
    assert two.seconds >= sum(each.seconds for each in two.tries) + 2 * 0.05 - 0.01, "each is rounded by itself"
    assert [event["tried"] for event in done.events if event["event"] == "retry"] == [1, 2]
    assert (bench.root / agent.LOGS / "two.log").read_text() == "try\n" * 3


def test_the_last_try_says_why_the_step_failed(bench: Bench) -> None:
    text = "echo x >> tries; exit $(wc -l < tries)"
    done = bench.run(script("one", text, retry={"tries": 2, "pause_s": 0}))
    assert done.end("one")["reason"] == "the script ended with status 2"
    assert len(done.end("one")["tries"]) == 2


def test_the_time_limit_is_that_of_each_try(bench: Bench) -> None:
    text = "echo x >> tries; [ $(wc -l < tries) -gt 1 ] || sleep 300"
    done = bench.run(script("one", text, retry={"tries": 2, "pause_s": 0}, timeout_s=3))
    assert done.ends == {"one": "done"}, "the second try began when the limit of the first was over"
    assert done.end("one")["tries"][0]["reason"] == "not done within 3 s"


def test_when_another_step_fails_there_is_no_further_try(bench: Bench) -> None:
    began = time.monotonic()
    done = bench.run(
        script("again", "touch tried; exit 1", retry={"tries": 2, "pause_s": 60}),
        script("bad", "until [ -e tried ]; do sleep 0.01; done; sleep 0.2; exit 1"),
        parallel=2,
    )
    assert time.monotonic() - began < 30
    assert done.ends == {"bad": "failed", "again": "failed"}
    assert "tries" not in done.end("again")


def test_a_step_that_was_stopped_is_not_tried_again(bench: Bench) -> None:
    process = bench.start(script("one", "echo $$ > pid; sleep 300", retry={"tries": 9, "pause_s": 0}))
    pid_in(bench.root / "pid")
    process.terminate()
    output, errors = process.communicate(timeout=20)
    assert ran(process.returncode, output, errors).end("one")["reason"] == "stopped by SIGTERM"


def test_what_a_step_depends_on_is_kept_in_the_ledger_and_told_when_it_is_skipped(bench: Bench) -> None:
    step = script("one", "true", parts={"script": "abc"})
    bench.run(step)
    assert bench.ledger["one"]["parts"] == {"script": "abc"}
    bench.run(step)
    assert [each.parts for each in bench.origin.reports[-1].steps] == [{"script": "abc"}]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"parallel": 0}, "parallel"),
        ({"steps": [script("one", "true", needs=["two"]), script("two", "true")]}, "not before it"),
        ({"steps": [script("one", "true"), script("one", "true")]}, "there twice"),
        ({"steps": [script("one", "true", retry={"tries": "x"})]}, "retry"),
        ({"steps": [script("one", "true", user=7)]}, "user"),
    ],
)
def test_a_plan_whose_order_makes_no_sense_is_refused_whole(
    bench: Bench, changed: dict[str, object], reason: str
) -> None:
    done = bench.run(**changed)
    assert done.status == 2
    assert reason in done.result["reason"]


# Steps as another user. Only root can become another; without it, what can be seen is that it is refused.

needs_root = os.geteuid() == 0


@pytest.fixture
def open_bench() -> Iterator[Bench]:
    """A server whose directories everybody may enter, as on a real one."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    objects = FakeObjects()
    with Origin(objects.bodies).serving() as origin:
        yield Bench(folder, objects, origin)
    shutil.rmtree(folder)


def test_a_step_runs_as_its_user_with_its_groups_and_its_home_or_only_root_may(open_bench: Bench) -> None:
    (open_bench.root / "out").mkdir()
    (open_bench.root / "out").chmod(0o777)
    text = 'id -un; id -gn; id -G; echo "$HOME $USER $LOGNAME"; umask; echo x > out/made'
    done = open_bench.run(script("one", text, user="daemon"), script("two", "id -un > two"))
    if not needs_root:
        assert "only root can run a step as 'daemon'" in done.end("one")["reason"]
        return
    assert done.status == 0
    daemon = pwd.getpwnam("daemon")
    groups = " ".join(map(str, os.getgrouplist("daemon", daemon.pw_gid)))
    said = (open_bench.root / agent.LOGS / "one.log").read_text().splitlines()
    assert said == ["daemon", "daemon", groups, f"{daemon.pw_dir} daemon daemon", "0022"]
    assert (open_bench.root / "out/made").owner() == "daemon"
    assert (open_bench.root / "two").read_text() == "root\n", "the next step is root's again"


def test_a_script_that_ran_as_a_user_is_roots_again_when_root_runs_it(open_bench: Bench) -> None:
    open_bench.run(script("one", "true", user="daemon"))
    assert open_bench.run(script("one", "true", fingerprint="2")).status == 0
    assert (open_bench.root / agent.HOME / "scripts/one").stat().st_uid == os.geteuid()


def test_a_user_that_the_server_does_not_have_is_a_reason(bench: Bench) -> None:
    done = bench.run(script("one", "true", user="nobody-of-this-name"))
    assert done.end("one")["reason"].startswith("this server has no user 'nobody-of-this-name'")


def test_a_user_may_run_a_step_as_itself_without_being_root(bench: Bench) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert bench.run(script("one", "true", user=me)).status == 0


def test_a_step_ended_by_a_signal_of_its_own_says_which(bench: Bench) -> None:
    reason = bench.run(script("one", "kill -KILL $$")).end("one")["reason"]
    assert reason == f"the script was ended by {signal.SIGKILL.name}"
