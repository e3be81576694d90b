"""What a handler says about a message: the consumer acts on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    """The effect is durable, or there is nothing to do: delete the message."""

    why: str


@dataclass(frozen=True)
class LookAgain:
    """Work is under way elsewhere: deliver the same message anew after ``after_s`` seconds.

    Not a failure: it does not count towards the dead-letter queue.
    """

    after_s: int
    why: str


@dataclass(frozen=True)
class Retry:
    """It failed for now: show the message again after ``after_s`` seconds (None: the consumer chooses)."""

    why: str
    after_s: int | None = None


@dataclass(frozen=True)
class Reject:
    """It can never be handled: dead-letter queue, with the reason."""

    why: str


Outcome = Done | LookAgain | Retry | Reject


TOLD_S = 60
"""How soon to look again at what AWS tells the end of, mostly: a plan that runs, an image that is being made."""


def patience_s(waited_s: float) -> int:
    """Return how soon to look again at what was waited for so long: each second at first, at last every twenty. Pure.

    What has not come after five minutes hardly ever comes by itself, and may be waited for as long as a launch takes.
    """
    return 1 if waited_s < 30 else 2 if waited_s < 90 else 5 if waited_s < 300 else 20
