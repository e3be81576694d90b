from datetime import UTC, datetime, timedelta
from typing import Any

from ops.demo.journal import Journal
from shared.records import StepResult

SERVER = "i-0123456789abcdef0"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def _state(state: str) -> dict[str, Any]:
    detail = {"instance-id": SERVER, "state": state}
    return {"detail-type": "EC2 Instance State-change Notification", "detail": detail}


def _lifecycle(kind: str) -> dict[str, Any]:
    return {"detail-type": kind, "detail": {"EC2InstanceId": SERVER}}


def _step(name: str, at: float, seconds: float) -> StepResult:
    return StepResult(step=name, result="done", began=NOON + timedelta(seconds=at), seconds=seconds)


def _launched(journal: Journal) -> None:
    journal.read(_state("pending"), 10.0)
    journal.read(_state("running"), 12.0)
    journal.read(_lifecycle("EC2 Instance-launch Lifecycle Action"), 12.1)
    journal.read(_lifecycle("EC2 Instance Launch Successful"), 20.0)


def test_a_launch_is_split_into_boot_steps_and_what_the_system_adds() -> None:
    journal = Journal()
    _launched(journal)
    line = journal.servers[SERVER]
    line.steps = (_step("code", 0, 4.0), _step("b", 4.0, 2.5))

    assert (line.boot_s, line.launch_s, line.steps_s, line.added_s) == (2.0, 10.0, 6.5, 1.5)


def test_steps_that_ran_side_by_side_are_not_counted_twice() -> None:
    journal = Journal()
    _launched(journal)
    line = journal.servers[SERVER]
    line.steps = (_step("code", 0, 4.0), _step("b", 1.0, 4.0))

    assert (line.steps_s, line.added_s) == (5.0, 3.0)


def test_a_launch_without_a_report_says_nothing_of_what_was_added() -> None:
    journal = Journal()
    _launched(journal)

    assert journal.servers[SERVER].added_s is None


def test_a_message_that_comes_twice_is_told_once_and_keeps_its_first_time() -> None:
    journal = Journal()
    journal.read(_state("pending"), 10.0)
    journal.read(_state("pending"), 11.0)

    assert journal.servers[SERVER].marks == {"pending": 10.0}
    assert len(journal.lines) == 1


def test_an_alert_is_loud() -> None:
    journal = Journal()
    journal.read({"type": "alert.raised", "fleet": "web", "cause": "provision-compile", "reason": "broken"}, 1.0)

    assert [line.loud for line in journal.lines] == [True]
    assert len(journal.alerts) == 1


def test_a_server_that_leaves_is_marked_as_announced() -> None:
    journal = Journal()
    journal.read({"type": "membership.changed", "fleet": "web", "generation": 4, "left": [SERVER], "joined": []}, 5.0)

    assert journal.servers[SERVER].marks["announced"] == 5.0


def test_a_server_that_was_away_for_an_update_is_a_member_again_and_may_leave_for_good_later() -> None:
    journal = Journal()

    def change(generation: int, at: float, *, joined: list[str] | None = None, left: list[str] | None = None) -> None:
        body = {"type": "membership.changed", "fleet": "web", "generation": generation}
        journal.read({**body, "joined": joined or [], "left": left or []}, at)

    change(1, 1.0, joined=[SERVER])
    change(2, 5.0, left=[SERVER])
    change(3, 9.0, joined=[SERVER])
    change(4, 20.0, left=[SERVER])
    change(3, 21.0, joined=[SERVER])
    line = journal.servers[SERVER]
    assert (line.updates, line.marks["announced"]) == ([(5.0, 9.0)], 20.0)
    assert [each.text for each in journal.lines][2] == f"{SERVER} is a member again"


def test_a_detached_server_is_aside_and_not_gone() -> None:
    journal = Journal()
    _launched(journal)
    body = {"type": "server.replaced", "server": SERVER, "how": "detached", "by": "demo", "reason": "odd"}
    journal.read(body, 30.0)

    line = journal.servers[SERVER]
    assert (line.state, line.gone) == ("aside", False)
