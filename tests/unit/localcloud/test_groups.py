"""The groups with their lock and their world, without HTTP."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from localcloud import group as machine
from localcloud.groups import Groups, LaunchFailed
from localcloud.groupvalues import Group, Launched, LaunchInstance, Refused, TemplateRef


class World:
    """Launches at once; ``launch`` may be replaced."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.numbers = itertools.count(1)
        self.terminated: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.launch: Callable[[LaunchInstance], Launched] = self.started
        self.groups = Groups(
            launch=self._launch,
            terminate=self.terminated.append,
            disown=lambda instance: None,
            publish=self.events.append,
            send=lambda arn, body: None,
            now=lambda: self.time,
        )

    def _launch(self, order: LaunchInstance) -> Launched:
        return self.launch(order)

    def started(self, order: LaunchInstance) -> Launched:
        return Launched(f"i-{next(self.numbers)}", "ami-1", "m7i.large", "1")

    def create(self, name: str = "web", desired: int = 1) -> None:
        self.groups.create(Group(name, "", "", "", 0, 0, 50, desired, TemplateRef(name="web"), ("a",)))

    def states(self, name: str = "web") -> list[str]:
        return [str(member.state) for member in self.groups.get(name).members]


def in_another_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for a lock that its caller holds"


def test_no_lock_is_held_while_the_world_acts() -> None:
    world = World()

    def launch(order: LaunchInstance) -> Launched:
        what = world.started(order)
        in_another_thread(lambda: world.groups.instance_running(what.instance))
        in_another_thread(world.groups.tick)
        return what

    world.launch = launch
    world.create()
    assert world.states() == ["InService"]


def test_an_instance_that_ended_before_its_launch_returned_is_not_kept() -> None:
    world = World()

    def launch(order: LaunchInstance) -> Launched:
        what = world.started(order)
        world.groups.instance_terminated(what.instance)
        return what

    world.launch = launch
    world.create()
    assert world.states() == []


def test_news_of_strangers_is_not_remembered() -> None:
    world = World()
    world.create(desired=1)
    world.groups.instance_running("i-2")
    world.groups.ask("web", lambda group, now: machine.set_desired(group, 2, now))
    assert world.states() == ["Pending", "Pending"]


def test_a_refused_launch_is_tried_again_after_its_pause() -> None:
    world = World()

    def refuse(order: LaunchInstance) -> Launched:
        raise LaunchFailed("no such image")

    world.launch = refuse
    world.create()
    assert world.groups.get("web").activities[-1].message == "no such image"
    world.launch = world.started
    world.time += 0.9
    world.groups.tick()
    assert world.states() == []
    world.time += 0.1
    world.groups.tick()
    assert world.states() == ["Pending"]


def test_a_launch_that_broke_off_is_told_to_the_caller_and_counts_as_failed() -> None:
    world = World()

    def break_off(order: LaunchInstance) -> Launched:
        raise OSError("disk full")

    world.launch = break_off
    with pytest.raises(OSError, match="disk full"):
        world.create()
    assert world.states() == []
    world.launch = world.started
    world.time += 1
    world.groups.tick()
    assert world.states() == ["Pending"]


def test_requests_from_many_threads_are_all_applied() -> None:
    world = World()
    world.create(desired=0)

    def grow() -> None:
        for _ in range(10):
            world.groups.ask("web", lambda group, now: machine.set_desired(group, group.desired + 1, now))
            world.groups.tick()

    threads = [threading.Thread(target=grow, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    group = world.groups.get("web")
    assert group.desired == 40
    assert sorted(member.instance for member in group.members) == sorted(f"i-{n}" for n in range(1, 41))


def test_groups_and_owners_that_are_not_there_are_refused() -> None:
    world = World()
    with pytest.raises(Refused, match="no such group: web"):
        world.groups.get("web")
    with pytest.raises(Refused, match="i-1"):
        world.groups.owner("i-1")


def test_a_group_is_forgotten_when_its_last_instance_has_ended() -> None:
    world = World()
    world.create()
    world.groups.ask("web", lambda group, now: machine.delete(group, now, force=True))
    assert world.terminated == ["i-1"]
    with pytest.raises(Refused, match="already exists"):
        world.create()
    world.groups.instance_terminated("i-1")
    assert world.groups.all() == ()
    world.create()
    assert world.states() == ["Pending"]
