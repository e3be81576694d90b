"""The consumer loses nothing, repeats little, and stays within its bounds."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from shared.cloud import Denied, Throttled, Unavailable
from shared.consumer import (
    AT_ONCE,
    LONGEST_S,
    STOP_S,
    TRIES,
    VISIBILITY_S,
    Consumer,
    about,
    retry_delay,
)
from shared.events import Incoming, ObjectChanged
from shared.healthcheck import FRESH_S, is_fresh
from shared.messages import ServerKillRequested, Tick, parse_message
from shared.outcome import Done, LookAgain, Outcome, Reject, Retry
from tests.unit.shared.payloads import TEST_NOTIFICATION
from tests.unit.shared.virtual import SteppedClock, VirtualQueue, kill, settle

Answer = Callable[[Incoming], Awaitable[Outcome]]


async def done(incoming: Incoming) -> Outcome:
    return Done("it is so")


def server_of(incoming: Incoming) -> str:
    assert isinstance(incoming, ServerKillRequested)
    return incoming.server


@dataclass
class Handler:
    """Records what it is asked, and answers as told."""

    clock: SteppedClock
    answer: Answer = done
    asked: list[tuple[float, Incoming]] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def __call__(self, incoming: Incoming) -> Outcome:
        self.asked.append((self.clock.monotonic(), incoming))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self.answer(incoming)
        finally:
            self.running -= 1

    def takes(self, seconds: float, then: Outcome | None = None) -> None:
        async def answer(incoming: Incoming) -> Outcome:
            await self.clock.sleep(seconds)
            return then or Done("after a while")

        self.answer = answer

    def says(self, outcome: Outcome) -> None:
        async def answer(incoming: Incoming) -> Outcome:
            return outcome

        self.answer = answer

    def raises(self, error: Exception) -> None:
        async def answer(incoming: Incoming) -> Outcome:
            raise error

        self.answer = answer

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.asked]

    @property
    def servers(self) -> list[str]:
        return [server_of(incoming) for _, incoming in self.asked]


class Running:
    """A consumer at work on a virtual queue."""

    def __init__(self, heartbeat_file: Path) -> None:
        self.clock = SteppedClock()
        self.queue = VirtualQueue(self.clock)
        self.handler = Handler(self.clock)
        self.heartbeat_file = heartbeat_file
        self.consumer = Consumer(
            self.queue, self.handler, self.clock, random.Random(7), heartbeat_file=self.heartbeat_file
        )
        self.task = asyncio.create_task(self.consumer.run())

    async def pass_time(self, seconds: float) -> None:
        await self.clock.pass_time(seconds)

    @property
    def empty(self) -> bool:
        return not self.queue.stored


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(tmp_path / "alive")
    yield running
    running.consumer.stop()
    while not running.task.done():
        await running.pass_time(1)
    if not running.task.cancelled():
        running.task.exception()


async def test_what_is_done_is_deleted(running: Running) -> None:
    running.queue.put(kill(1))
    await running.pass_time(1)
    assert running.handler.servers == ["i-00000001"]
    assert running.empty
    assert running.queue.dead == []


@pytest.mark.fault(18)
async def test_nothing_is_deleted_before_its_handler_has_answered(running: Running) -> None:
    running.handler.takes(5)
    running.queue.put(kill(1))
    await running.pass_time(4.9)
    assert not running.empty
    await running.pass_time(0.5)
    assert running.empty


async def test_an_idle_consumer_polls_three_times_a_minute(running: Running) -> None:
    await running.pass_time(600)
    assert len(running.queue.calls) <= 31


async def test_after_a_busy_time_too(running: Running) -> None:
    running.queue.put(*(kill(number) for number in range(100)))
    await running.pass_time(60)
    before = len(running.queue.calls)
    await running.pass_time(600)
    assert running.empty
    assert len(running.queue.calls) - before <= 31


async def test_while_batches_come_full_several_requests_to_receive_are_under_way(running: Running) -> None:
    running.queue.receiving_s = 1
    running.queue.put(*(kill(number) for number in range(100)))
    await running.pass_time(5)
    first = running.handler.times[0]
    assert [sum(at < first + within for at in running.handler.times) for within in (0.5, 1.5, 2.5)] == [10, 50, 90]


async def test_a_busy_consumer_receives_and_deletes_in_tens(running: Running) -> None:
    running.queue.put(*(kill(number) for number in range(1000)))
    await running.pass_time(5)
    assert len(set(running.handler.servers)) == 1000
    assert running.empty
    assert len(running.queue.calls) <= 220


async def test_a_busy_consumer_with_slower_handlers_does_too(running: Running) -> None:
    running.handler.takes(0.1)
    running.queue.put(*(kill(number) for number in range(1000)))
    await running.pass_time(15)
    assert running.empty
    assert len(running.queue.calls) <= 240


async def test_only_so_many_are_held_at_a_time(running: Running) -> None:
    running.handler.takes(100)
    running.queue.put(*(kill(number) for number in range(AT_ONCE * 2)))
    await running.pass_time(50)
    assert running.handler.most == AT_ONCE
    assert len(running.queue.visible) == AT_ONCE
    await running.pass_time(60)
    assert len(running.handler.asked) == AT_ONCE * 2
    assert running.handler.most == AT_ONCE


async def test_messages_about_one_server_are_handled_one_after_another_in_order(running: Running) -> None:
    running.handler.takes(2)
    running.queue.put(*(kill(1, reason=str(turn)) for turn in range(4)))
    await running.pass_time(3)
    assert running.handler.most == 1
    await running.pass_time(10)
    assert [incoming.reason for _, incoming in running.handler.asked if isinstance(incoming, ServerKillRequested)] == [
        "0",
        "1",
        "2",
        "3",
    ]
    assert running.handler.times == [0, 2, 4, 6]


TICK = '{"type":"tick"}'


async def test_ticks_that_waited_are_served_by_one_look_and_all_deleted(running: Running) -> None:
    running.handler.takes(2)
    running.queue.put(*[TICK] * 30)
    await running.pass_time(3)
    assert len(running.handler.asked) == 2, "the one that came first, and one for all that came while it was handled"
    await running.pass_time(2)
    assert len(running.handler.asked) == 2
    assert running.empty


async def test_ticks_whose_look_failed_are_all_shown_again(running: Running) -> None:
    running.handler.says(Retry("not now", after_s=60))
    running.queue.put(TICK, TICK, TICK)
    await running.pass_time(1)
    assert not running.empty
    assert len(running.queue.stored) == 3
    assert running.queue.visible == []


async def test_equal_requests_are_each_handled(running: Running) -> None:
    running.handler.takes(2)
    running.queue.put(kill(1), kill(1), kill(1))
    await running.pass_time(10)
    assert len(running.handler.asked) == 3


async def test_messages_about_different_servers_are_handled_in_parallel(running: Running) -> None:
    running.handler.takes(2)
    running.queue.put(*(kill(number) for number in range(4)))
    await running.pass_time(1)
    assert running.handler.running == 4


@pytest.mark.fault(17)
async def test_what_waits_for_its_turn_stays_hidden_too(running: Running) -> None:
    running.handler.takes(40)
    running.queue.put(kill(1), kill(1))
    await running.pass_time(85)
    assert len(running.handler.asked) == 2
    assert running.empty


@pytest.mark.fault(17)
async def test_a_message_stays_hidden_while_its_handler_works(running: Running) -> None:
    running.handler.takes(10 * VISIBILITY_S)
    running.queue.put(kill(1))
    await running.pass_time(10 * VISIBILITY_S + 1)
    assert len(running.handler.asked) == 1
    assert running.empty


async def test_visibility_is_short_so_that_others_take_over_soon(running: Running) -> None:
    running.handler.takes(1000)
    running.queue.put(kill(1))
    await running.pass_time(7)
    running.task.cancel()  # as if killed
    await running.pass_time(VISIBILITY_S)
    assert len(running.queue.visible) == 1


async def test_an_extension_may_fail_without_showing_the_message(running: Running) -> None:
    running.queue.fail("extend", Throttled("slow down"))
    running.handler.takes(60)
    running.queue.put(kill(1))
    await running.pass_time(61)
    assert len(running.handler.asked) == 1
    assert running.empty


async def test_a_failed_message_comes_again_later_and_later(running: Running) -> None:
    running.handler.says(Retry("not yet"))
    running.queue.put(kill(1))
    await running.pass_time(600)
    gaps = [later - sooner for sooner, later in zip(running.handler.times, running.handler.times[1:], strict=False)]
    assert len(gaps) == TRIES - 1
    for gap, least in zip(gaps, [1, 5, 25, 125], strict=True):
        assert least <= gap <= 2 * least + 1


async def test_a_handler_may_choose_when_its_message_comes_again(running: Running) -> None:
    running.handler.says(Retry("not yet", after_s=7))
    running.queue.put(kill(1))
    await running.pass_time(8)
    assert len(running.handler.asked) == 2
    assert 7 <= running.handler.times[1] <= 7.5


@pytest.mark.fault(14)
async def test_a_message_that_keeps_failing_is_a_dead_letter_with_its_last_reason(running: Running) -> None:
    running.handler.says(Retry("the disk is full"))
    body = kill(1, id="k1", time="2026-03-04T11:59:00Z")
    [number] = running.queue.put(body, attributes={"traceparent": "00-1-2-01"})
    with capture_logs() as logs:
        await running.pass_time(600)
    [dead] = running.queue.dead
    assert dead.body == body
    assert dead.attributes == {"traceparent": "00-1-2-01", "reason": "failed 5 times; the last time: the disk is full"}
    assert running.empty
    assert len(running.handler.asked) == TRIES
    [line] = [each for each in logs if each["event"] == "dead letter"]
    assert "the disk is full" in line["reason"]
    assert number == "m1"


@pytest.mark.fault(14)
async def test_a_rejected_message_is_a_dead_letter_at_once(running: Running) -> None:
    running.handler.says(Reject("there is no fleet 'x'"))
    running.queue.put(kill(1))
    await running.pass_time(1)
    assert [dead.attributes["reason"] for dead in running.queue.dead] == ["there is no fleet 'x'"]
    assert running.empty


@pytest.mark.fault(14)
@pytest.mark.parametrize("body", ["{", "[" * 50_000, '{"type": "x"}', '{"type": "tick", "more": 1}', " " * 300_000])
async def test_poison_is_a_dead_letter_and_hurts_nobody_else(running: Running, body: str) -> None:
    running.queue.put(kill(1), body, kill(2))
    await running.pass_time(1)
    assert sorted(running.handler.servers) == ["i-00000001", "i-00000002"]
    [dead] = running.queue.dead
    assert dead.body == body
    assert dead.attributes["reason"]
    assert running.empty


async def test_a_dead_letter_keeps_to_what_sqs_takes(running: Running) -> None:
    running.handler.says(Reject("line\nline \x00 \ud800" + "x" * 5000))
    running.queue.put(kill(1), attributes={f"a{number}": "v" for number in range(10)})
    await running.pass_time(1)
    [dead] = running.queue.dead
    assert dead.attributes["reason"].startswith("line line    xxx")
    assert dead.attributes["reason"].isprintable()
    assert len(dead.attributes["reason"]) == 1000
    assert len(dead.attributes) == 10


async def test_a_dead_letter_that_cannot_be_sent_is_not_deleted(running: Running) -> None:
    running.queue.fail("send_dead", Unavailable("down"))
    running.queue.put("poison")
    await running.pass_time(5)
    assert not running.empty
    await running.pass_time(VISIBILITY_S)
    assert len(running.queue.dead) == 1
    assert running.empty


async def test_a_failed_call_to_aws_is_retried_and_named(running: Running) -> None:
    running.handler.raises(Throttled("Rate exceeded"))
    running.queue.put(kill(1))
    with capture_logs() as logs:
        await running.pass_time(3)
    assert len(running.handler.asked) == 2
    assert logs[0]["why"] == "Throttled: Rate exceeded"
    assert "exc_info" not in logs[0]


async def test_a_fault_of_ours_is_logged_with_its_traceback_and_retried(running: Running) -> None:
    running.handler.raises(KeyError("oops"))
    running.queue.put(kill(1))
    with capture_logs() as logs:
        await running.pass_time(3)
    assert len(running.handler.asked) == 2
    assert logs[0]["event"] == "the handler failed"
    assert logs[0]["exc_info"]


async def test_a_failing_message_does_not_hold_up_others(running: Running) -> None:
    async def answer(incoming: Incoming) -> Outcome:
        if server_of(incoming) == "i-00000001":
            raise RuntimeError("always")
        return Done("fine")

    running.handler.answer = answer
    running.queue.put(kill(1), *(kill(number) for number in range(2, 100)))
    await running.pass_time(2)
    assert set(running.queue.stored) == {"m1"}


async def test_looking_again_sends_a_copy_before_it_deletes(running: Running) -> None:
    running.handler.says(LookAgain(30, "it boots"))
    running.queue.put(kill(1), attributes={"traceparent": "00-1-2-01"})
    await running.pass_time(1)
    [copy] = running.queue.stored.values()
    assert (copy.attributes, copy.receives) == ({"traceparent": "00-1-2-01"}, 0)
    assert json.loads(copy.body).items() >= json.loads(kill(1)).items()
    assert [call.name for call in running.queue.calls if call.name in ("send", "delete")] == ["send", "delete"]
    await running.pass_time(30)
    assert len(running.handler.asked) == 2


@pytest.mark.fault(10, 11)
async def test_a_request_typed_by_hand_has_the_id_and_time_of_its_message_at_every_try_and_wherever_it_goes(
    running: Running,
) -> None:
    """Of two requests the one asked for later counts: a copy, or a dead letter sent anew, must not become the later."""
    asked_at = running.clock.now()
    running.queue.put(kill(1))
    running.handler.says(Retry("not yet", after_s=1))
    await running.pass_time(2)
    running.handler.says(LookAgain(30, "it boots"))
    await running.pass_time(60)
    running.handler.says(Reject("no"))
    await running.pass_time(60)
    seen = [each for _, each in running.handler.asked if isinstance(each, ServerKillRequested)]
    assert len(seen) >= 4
    assert {(each.id, each.asked) for each in seen} == {("m1", asked_at)}
    [dead] = running.queue.dead
    assert parse_message(dead.body) == seen[0]


async def test_a_request_dated_ahead_counts_as_asked_for_when_it_was_sent(running: Running) -> None:
    now = running.clock.now()
    running.queue.put(kill(1, id="k1", time="2027-01-01T00:00:00Z"), kill(2, id="k2", time="2026-03-04T11:00:00Z"))
    await running.pass_time(1)
    asked = {each.id: each.asked for _, each in running.handler.asked if isinstance(each, ServerKillRequested)}
    assert asked == {"k1": now, "k2": now - timedelta(hours=1)}


async def test_looking_again_is_not_a_failure(running: Running) -> None:
    running.handler.says(LookAgain(5, "it boots"))
    running.queue.put(kill(1))
    await running.pass_time(120)
    assert len(running.handler.asked) > 4 * TRIES
    assert running.queue.dead == []


@pytest.mark.parametrize(("asked", "sent"), [(0, 1), (-5, 1), (7200, 900)])
async def test_a_copy_is_delayed_as_sqs_allows_and_never_hot(running: Running, asked: int, sent: int) -> None:
    running.handler.says(LookAgain(asked, "it boots"))
    running.queue.put(kill(1))
    await running.pass_time(0.5)
    assert [call.what for call in running.queue.called("send")] == [sent]


async def test_a_copy_that_cannot_be_sent_leaves_the_original(running: Running) -> None:
    running.queue.fail("send", Unavailable("down"))
    running.handler.says(LookAgain(60, "it boots"))
    running.queue.put(kill(1))
    await running.pass_time(5)
    assert list(running.queue.stored) == ["m1"]
    await running.pass_time(VISIBILITY_S)
    assert list(running.queue.stored) == ["m2"]


async def test_what_asks_nothing_of_us_is_deleted_unseen(running: Running) -> None:
    running.queue.put(json.dumps(TEST_NOTIFICATION))
    await running.pass_time(1)
    assert running.handler.asked == []
    assert running.empty
    assert running.queue.dead == []


def notification(*keys: str) -> str:
    return json.dumps({"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": key}}} for key in keys]})


async def test_a_message_of_several_events_is_sent_on_as_one_message_each(running: Running) -> None:
    running.queue.put(notification("one", "two", "three"), attributes={"mark": "kept"})
    await running.pass_time(1)
    assert [incoming for _, incoming in running.handler.asked] == [
        ObjectChanged("b", key) for key in ("one", "two", "three")
    ]
    assert [call.name for call in running.queue.calls if call.name in ("send", "delete")][:4] == ["send"] * 3 + [
        "delete"
    ]
    assert running.empty
    assert running.queue.dead == []


async def test_a_message_of_several_events_stays_until_all_are_sent_on(running: Running) -> None:
    running.queue.put(notification("one", "two"))
    running.queue.fail("send", Unavailable("down"))
    await running.pass_time(0.5)
    assert list(running.queue.stored) == ["m1"]
    await running.pass_time(5)
    assert running.empty
    assert {incoming for _, incoming in running.handler.asked} == {ObjectChanged("b", key) for key in ("one", "two")}


async def test_one_broken_event_among_several_is_a_dead_letter_whole(running: Running) -> None:
    body = json.dumps({"Records": [*json.loads(notification("one"))["Records"], {}]})
    running.queue.put(body)
    await running.pass_time(1)
    assert [dead.body for dead in running.queue.dead] == [body]
    assert running.handler.asked == []


@pytest.mark.fault(18)
async def test_a_delete_that_fails_only_means_that_the_message_comes_again(running: Running) -> None:
    running.queue.fail("delete", Unavailable("down"))
    running.queue.put(kill(1))
    await running.pass_time(VISIBILITY_S + 2)
    assert len(running.handler.asked) == 2
    assert running.empty


@pytest.mark.fault(17)
async def test_a_message_that_shows_itself_during_its_work_waits_for_its_turn(running: Running) -> None:
    running.handler.takes(60)
    running.queue.fail("extend", Unavailable("down"), times=3)
    running.queue.put(kill(1))
    await running.pass_time(200)
    assert len(running.handler.asked) == 2
    assert running.handler.most == 1
    assert running.empty


@pytest.mark.fault(27, 42)
@pytest.mark.parametrize("error", [Denied("expired"), Throttled("slow down"), Unavailable("down")])
async def test_receiving_backs_off_while_it_fails(running: Running, error: Denied | Throttled | Unavailable) -> None:
    running.queue.fail("receive", error, times=20)
    running.queue.put(kill(1))
    await running.pass_time(60)
    assert 3 <= len(running.queue.called("receive")) <= 9
    await running.pass_time(600)
    assert running.empty


async def test_a_handler_that_hangs_is_cancelled_and_its_message_tried_again(running: Running) -> None:
    cancellations: list[int] = []

    async def hang(incoming: Incoming) -> Outcome:
        task = asyncio.current_task()
        assert task is not None
        cancellations.append(task.cancelling())
        await running.clock.sleep(10 * LONGEST_S)
        return Done("never")

    running.handler.answer = hang
    running.queue.put(kill(1), kill(1, reason="the next"))
    with capture_logs() as logs:
        await running.pass_time(LONGEST_S + 6)
    assert [line["why"] for line in logs if line["event"] == "retry"] == ["handling took more than 600 s"]
    assert running.handler.running == 1
    assert cancellations == [0, 0]
    assert not running.task.done()


async def test_stopping_finishes_what_is_held_and_receives_no_more(running: Running) -> None:
    running.handler.takes(10)
    running.queue.put(kill(1), kill(2))
    await running.pass_time(2)
    running.consumer.stop()
    running.queue.put(kill(3))
    await running.pass_time(9)
    assert running.task.done()
    assert running.task.exception() is None
    assert list(running.queue.stored) == ["m3"]
    assert len(running.handler.asked) == 2


async def test_stopping_an_idle_consumer_takes_no_time(running: Running) -> None:
    await running.pass_time(1)
    running.consumer.stop()
    await settle()
    assert running.task.done()


async def test_stopping_hands_back_at_once_what_does_not_finish(running: Running) -> None:
    running.handler.takes(300)
    running.queue.put(kill(1), kill(1), kill(2))
    await running.pass_time(2)
    running.consumer.stop()
    await running.pass_time(STOP_S - 1)
    assert not running.task.done()
    assert running.queue.visible == []
    await running.pass_time(1.1)
    assert running.task.done()
    assert sorted(running.queue.visible) == ["m1", "m2", "m3"]


async def test_an_extension_under_way_does_not_hide_again_what_is_handed_back(running: Running) -> None:
    def extend(receipts: Mapping[str, int]) -> Awaitable[Sequence[str]]:
        return asyncio.shield(asyncio.ensure_future(extended_in_the_end(receipts)))

    async def extended_in_the_end(receipts: Mapping[str, int]) -> Sequence[str]:
        await running.clock.sleep(9 if any(receipts.values()) else 0)
        for stored in running.queue.stored.values():
            stored.visible_from = running.clock.monotonic() + receipts[stored.receipt]
        return []

    running.queue.extend = extend  # type: ignore[method-assign, assignment]
    running.handler.takes(100)
    running.queue.put(kill(1))
    await running.pass_time(4)
    running.consumer.stop()
    await running.pass_time(STOP_S + 10)
    assert running.task.done()
    assert running.queue.visible == ["m1"]


async def test_stopping_deletes_what_is_done(running: Running) -> None:
    running.queue.put(kill(1))
    await running.pass_time(0)
    assert len(running.handler.asked) == 1
    running.consumer.stop()
    await running.pass_time(0.1)
    assert running.task.done()
    assert running.empty


async def test_a_fault_that_nobody_foresaw_ends_the_process_and_deletes_nothing(running: Running) -> None:
    running.queue.fail("receive", TypeError("a bug"))
    await running.pass_time(1)
    assert isinstance(running.task.exception(), ExceptionGroup)
    assert running.queue.called("delete") == []


def age(file: Path) -> None:
    os.utime(file, (0, 0))


async def test_the_heartbeat_file_is_touched_at_every_poll(running: Running) -> None:
    await running.pass_time(1)
    age(running.heartbeat_file)
    await running.pass_time(20)
    assert running.heartbeat_file.stat().st_mtime > 0


async def test_the_heartbeat_file_is_touched_while_there_is_no_room(running: Running) -> None:
    running.handler.takes(200)
    running.queue.put(*(kill(number) for number in range(AT_ONCE)))
    await running.pass_time(10)
    age(running.heartbeat_file)
    await running.pass_time(10)
    assert running.heartbeat_file.stat().st_mtime > 0


def test_a_heartbeat_is_fresh_for_a_minute(tmp_path: Path) -> None:
    clock, file = SteppedClock(), tmp_path / "alive"
    assert not is_fresh(file, clock)
    file.touch()
    now = clock.now().timestamp()
    os.utime(file, (now - FRESH_S + 1, now - FRESH_S + 1))
    assert is_fresh(file, clock)
    os.utime(file, (now - FRESH_S, now - FRESH_S))
    assert not is_fresh(file, clock)


def test_messages_are_about_their_server_else_their_fleet() -> None:
    assert about(ServerKillRequested(fleet="web", server="i-12345678")) == "server i-12345678"
    assert about(Tick(fleet="web")) == "fleet web"
    assert about(Tick()) == ""


@given(st.integers(1, 25), st.randoms(use_true_random=False))
def test_delays_are_whole_seconds_within_what_sqs_allows(receives: int, randomness: random.Random) -> None:
    delay = retry_delay(receives, randomness)
    assert isinstance(delay, int)
    assert 1 <= delay <= 900
