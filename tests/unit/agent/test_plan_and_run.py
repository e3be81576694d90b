import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import agent
from tests.unit.agent.bench import AGENT, Bench, ran, script

SYNC = {
    "step": "code",
    "kind": "sync",
    "fingerprint": "1",
    "timeout_s": 9,
    "component": "app",
    "version": "1",
    "to": "srv/app",
    "content": {"manifest_url": "http://127.0.0.1:9/", "manifest_sha256": "", "packs": {}},
}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pid_in(path: Path) -> int:
    wait_for(lambda: path.exists() and path.read_text().endswith("\n"), f"a pid in {path.name}")
    return int(path.read_text())


def test_the_agent_imports_nothing_but_the_standard_library() -> None:
    imported = set()
    for node in ast.walk(ast.parse(AGENT.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported <= sys.stdlib_module_names


def test_the_agent_is_written_in_the_python_of_a_stock_server() -> None:
    ast.parse(AGENT.read_text(), feature_version=(3, 8))


def test_steps_run_in_order_and_are_told_as_events_and_reports(bench: Bench) -> None:
    done = bench.run(
        script("one", "echo 1 >> order", why="its script"), script("two", "#!/bin/bash\necho 2 >> order"), attempt="a-7"
    )
    assert done.status == 0
    assert (bench.root / "order").read_text() == "1\n2\n"
    assert [(event["event"], event.get("step")) for event in done.events] == [
        ("begin", "one"),
        ("end", "one"),
        ("begin", "two"),
        ("end", "two"),
        ("result", None),
    ]
    assert done.events[0]["why"] == "its script"
    assert done.result["state"] == "ok"
    assert [(report.state, [step.result for step in report.steps]) for report in bench.origin.reports] == [
        ("running", ["running"]),
        ("running", ["done"]),
        ("running", ["done", "running"]),
        ("running", ["done", "done"]),
        ("ok", ["done", "done"]),
    ]
    assert bench.origin.reports[-1].attempt == "a-7"


def test_a_script_sees_its_root_and_its_environment_and_nothing_on_stdin(bench: Bench) -> None:
    text = (
        'cat; echo "$PWD|$SERVER_ROOT|$ADDRESS|$FLEET|$SERVER|$COLOUR|${PATH:+path}|${HOME:+home}|${LANG:+lang}" > seen'
    )
    assert bench.run(script("one", text, environment={"COLOUR": "deep blue"})).status == 0
    root = str(bench.root)
    expected = f"{root}|{root}|127.0.0.9|web|i-0123456789abcdef0|deep blue|path|home|lang\n"
    assert (bench.root / "seen").read_text() == expected


def test_the_root_is_that_of_the_environment_unless_told_otherwise(bench: Bench) -> None:
    plan = bench.plan(script("one", "touch here"))
    environment = {**os.environ, "SERVER_ROOT": str(bench.root)}
    subprocess.run([sys.executable, AGENT, "run", plan], env=environment, check=True, capture_output=True)
    assert (bench.root / "here").exists()


def test_a_step_that_is_done_is_skipped_until_its_fingerprint_changes(bench: Bench) -> None:
    assert bench.run(script("one", "echo x >> runs")).ends == {"one": "done"}
    again = bench.run(script("one", "echo x >> runs"))
    assert again.ends == {"one": "skipped"}
    assert [step.result for step in bench.origin.reports[-1].steps] == ["skipped"]
    assert bench.run(script("one", "echo x >> runs", fingerprint="2")).ends == {"one": "done"}
    assert (bench.root / "runs").read_text() == "x\nx\n"


def test_a_failure_stops_the_plan_and_says_why_with_the_end_of_the_log(bench: Bench) -> None:
    text = "for n in $(seq 100); do echo line $n; done; printf '\\377\\n'; exit 3"
    done = bench.run(script("one", "true"), script("two", text), script("three", "touch never"))
    assert done.status == 1
    assert done.ends == {"one": "done", "two": "failed"}
    assert done.end("two")["reason"] == "the script ended with status 3"
    assert done.end("two")["log_tail"].splitlines() == [f"line {n}" for n in range(62, 101)] + ["\ufffd"]
    assert not (bench.root / "never").exists()
    assert set(bench.ledger) == {"one"}
    last = bench.origin.reports[-1]
    assert (last.state, last.step) == ("failed", "two")
    assert last.steps[-1].log_tail == done.end("two")["log_tail"]
    assert "step two failed: the script ended with status 3" in last.reason
    assert (bench.root / agent.LOGS / "two.log").read_bytes().startswith(b"line 1\n")


def test_a_long_line_leaves_only_its_last_8000_characters_in_the_tail(bench: Bench) -> None:
    done = bench.run(script("one", "head -c 100000 /dev/zero | tr '\\0' a; exit 1"))
    assert done.end("one")["log_tail"] == "a" * 8000


def test_a_failed_step_forgets_that_an_older_form_of_it_was_done(bench: Bench) -> None:
    bench.run(script("one", "true", fingerprint="old"))
    bench.run(script("one", "false", fingerprint="new"))
    assert bench.run(script("one", "true", fingerprint="old")).ends == {"one": "done"}


def test_a_timeout_ends_the_whole_process_group_but_not_what_left_it(bench: Bench) -> None:
    text = """
        sleep 300 & echo $! > child
        setsid sh -c 'echo $$ > daemon; exec sleep 300' &
        trap '' TERM
        while [ ! -s daemon ]; do sleep 0.01; done
        wait; sleep 300
    """
    done = bench.run(script("one", text, timeout_s=1))
    daemon = pid_in(bench.root / "daemon")
    try:
        assert done.end("one")["reason"] == "not done within 1 s"
        assert not is_running(pid_in(bench.root / "child"))
        assert is_running(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_sigterm_ends_the_running_step_and_is_reported(bench: Bench) -> None:
    process = bench.start(script("one", "echo $$ > pid; sleep 300"))
    step = pid_in(bench.root / "pid")
    process.terminate()
    output, errors = process.communicate(timeout=20)
    done = ran(process.returncode, output, errors)
    assert done.status == 1
    assert done.end("one")["reason"] == "stopped by SIGTERM"
    assert not is_running(step)
    assert bench.ledger == {}
    assert bench.origin.reports[-1].state == "failed"


def test_what_a_killed_agent_left_running_is_ended_before_the_step_runs_again(bench: Bench) -> None:
    process = bench.start(script("one", "echo $$ >> pids; [ $(wc -l < pids) -gt 1 ] || sleep 300"))
    left = pid_in(bench.root / "pids")
    process.kill()
    process.communicate()
    assert is_running(left)
    again = bench.run(script("one", "echo $$ >> pids; [ $(wc -l < pids) -gt 1 ] || sleep 300"))
    assert again.ends == {"one": "done"}
    assert not is_running(left)


def test_a_process_that_got_the_pid_of_a_step_long_gone_is_left_alone(bench: Bench) -> None:
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as stranger:
        note = {"started": "1", "boot": agent.boot()}
        (bench.root / agent.HOME / "running").mkdir(parents=True)
        (bench.root / agent.HOME / f"running/{stranger.pid}").write_text(json.dumps(note))
        try:
            assert bench.run(script("one", "true")).status == 0
            assert is_running(stranger.pid)
        finally:
            stranger.kill()


def test_of_two_at_once_the_second_waits_and_finds_the_work_done(bench: Bench) -> None:
    step = script("one", "echo x >> runs; while [ ! -e go ]; do sleep 0.01; done")
    first = bench.start(step)
    wait_for((bench.root / "runs").exists, "the first at work")
    second = bench.start(step)
    assert second.stdout is not None
    assert json.loads(second.stdout.readline())["event"] == "waiting"
    (bench.root / "go").touch()
    first_output, errors = first.communicate(timeout=20)
    second_output, more_errors = second.communicate(timeout=20)
    assert ran(first.returncode, first_output, errors).ends == {"one": "done"}
    assert ran(second.returncode, second_output, more_errors).ends == {"one": "skipped"}
    assert (bench.root / "runs").read_text() == "x\n"


def test_a_check_waits_for_200_and_is_never_skipped(bench: Bench) -> None:
    check = {"step": "up", "kind": "check", "fingerprint": "1", "timeout_s": 20, "url": bench.origin.url + "/health"}
    process = bench.start(check)
    wait_for(lambda: len(bench.origin.requests) > 1, "a few tries")
    bench.origin.bodies["health"] = b"fine"
    output, errors = process.communicate(timeout=20)
    assert ran(process.returncode, output, errors).ends == {"up": "done"}
    assert bench.run(check).ends == {"up": "done"}


def test_a_check_that_never_succeeds_says_what_it_was_answered_last(bench: Bench) -> None:
    bench.origin.statuses["/health"] = 503
    check = {"step": "up", "kind": "check", "fingerprint": "1", "timeout_s": 0.5, "url": bench.origin.url + "/health"}
    reason = bench.run(check).end("up")["reason"]
    assert reason == f"not done within 0.5 s; {bench.origin.url}/health did not answer 200; last: status 503"


def test_a_plan_succeeds_although_nobody_takes_its_reports(bench: Bench) -> None:
    done = bench.run(script("one", "true"), report_url="http://127.0.0.1:9/report")
    assert (done.status, done.ends) == (0, {"one": "done"})


def test_the_last_report_is_tried_again(bench: Bench) -> None:
    bench.origin.refused_puts = 4
    assert bench.run(script("one", "true")).status == 0
    assert [report.state for report in bench.origin.reports] == ["ok"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"form": 2}, "form 1"),
        ({"address": None}, "lacks address"),
        ({"report_url": "file:///etc/passwd"}, "no HTTP URL"),
        ({"steps": [{"kind": "dance"}]}, "kind"),
        ({"steps": [{"kind": "run", "step": "one", "fingerprint": "1"}]}, "lacks script"),
        ({"steps": [script("../one", "true")]}, "no name for a step"),
        ({"steps": [script("one", "true", timeout_s=0)]}, "above 0"),
        ({"steps": [{**SYNC, "to": "srv/../../etc"}]}, "below the root"),
        ({"steps": [{**SYNC, "to": "/etc"}]}, "below the root"),
        ({"steps": [{**SYNC, "content": {"manifest_url": "http://127.0.0.1:9/"}}]}, "content must say"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_whole(bench: Bench, changed: dict[str, object], reason: str) -> None:
    done = bench.run(**changed)
    assert done.status == 2
    assert reason in done.result["reason"]


def test_a_plan_that_is_not_there_or_not_json_is_refused(bench: Bench) -> None:
    assert bench.run_plan(bench.folder / "none.json").status == 2
    (bench.folder / "half.json").write_text('{"form": 1')
    assert bench.run_plan(bench.folder / "half.json").status == 2


def test_a_root_that_cannot_be_written_to_is_a_reason(bench: Bench) -> None:
    (bench.root / "var").write_text("in the way")
    done = bench.run(script("one", "true"))
    assert done.status == 1
    assert "Not a directory" in done.result["reason"]
    assert bench.origin.reports[-1].state == "failed"


def test_a_plan_goes_on_when_nobody_reads_what_it_prints(bench: Bench) -> None:
    process = bench.start(script("one", "true"), script("two", "true"))
    assert process.stdout is not None
    process.stdout.close()
    process.wait(timeout=20)
    assert process.stderr is not None
    process.stderr.close()
    assert set(bench.ledger) == {"one", "two"}
    assert bench.origin.reports[-1].state == "ok"


def test_a_script_that_cannot_be_started_is_a_reason(bench: Bench) -> None:
    done = bench.run(script("one", "#!/no/such/shell\n"))
    assert "could not be started" in done.end("one")["reason"]


def test_a_damaged_ledger_means_that_everything_runs(bench: Bench) -> None:
    bench.run(script("one", "true"))
    (bench.root / agent.HOME / "ledger.json").write_text("{")
    assert bench.run(script("one", "true")).ends == {"one": "done"}


def test_the_ledger_can_be_printed(bench: Bench) -> None:
    bench.run(script("one", "true", fingerprint="f1"))
    printed = subprocess.run(
        [sys.executable, AGENT, "ledger", "--root", bench.root], check=True, capture_output=True, text=True
    )
    assert json.loads(printed.stdout)["one"]["fingerprint"] == "f1"
