"""A thousand messages, and a consumer that is killed every few seconds: nothing lost, nothing done twice in effect."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.wire.messaging.helpers import BUCKET, Settings, kill, make_queue, send, stored, unique, worker
from tests.wire.messaging.worker import tally_key
from tests.wire.running import Endpoint, until

MESSAGES = 1000
FLEETS = 100
KILLS = 4
EFFECTS_PER_LIFE = 180
"""A process is killed when it has had so many effects, in the midst of the next; that takes seconds."""

VISIBILITY_S = 3


def effects(out: Path) -> int:
    return out.read_bytes().count(b"written down") if out.exists() else 0


def kill_again_and_again(plane: Endpoint, settings: Settings, out: Path) -> None:
    for _ in range(KILLS):
        enough = effects(out) + EFFECTS_PER_LIFE
        with worker(plane, settings, out, "tally", str(VISIBILITY_S)) as victim:
            until(lambda enough=enough: effects(out) >= enough, within_s=60)  # type: ignore[misc]
            victim.kill()


def check_tally(plane: Endpoint, fleet: str, wanted: set[str]) -> None:
    """Each server stands in the tally once, and was put there once."""
    stored = plane.client("s3").get_object(Bucket=BUCKET, Key=tally_key(fleet))["Body"].read()
    tally = json.loads(stored)
    assert Counter(tally["servers"]) == Counter(wanted)
    assert tally["generation"] == len(wanted)


@pytest.mark.fault(18)
@pytest.mark.timeout(180)
def test_a_thousand_messages_survive_a_consumer_that_keeps_dying(message_plane: Endpoint, tmp_path: Path) -> None:
    settings, out = make_queue(message_plane), tmp_path / "out"
    each = range(MESSAGES // FLEETS)
    wanted = {unique("web"): {f"i-{place:04x}{number:04x}" for number in each} for place in range(FLEETS)}
    bodies = [kill(server, fleet=fleet) for fleet, servers in wanted.items() for server in servers]
    with ThreadPoolExecutor() as sending:
        sent = sending.submit(send, message_plane, settings.queue_url, *bodies)
        kill_again_and_again(message_plane, settings, out)
        sent.result(60)
    with worker(message_plane, settings, out, "tally", str(VISIBILITY_S)) as survivor:
        until(lambda: stored(message_plane, settings.queue_url) == 0, within_s=100)
        survivor.terminate()
        assert survivor.wait(20) == 0
    for fleet, servers in wanted.items():
        check_tally(message_plane, fleet, servers)
    assert stored(message_plane, settings.dead_letter_url) == 0
