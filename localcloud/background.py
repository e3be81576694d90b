"""Work that goes on after a request was answered. What goes wrong in it is logged; it never ends the server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread
from typing import ParamSpec

P = ParamSpec("P")

log = logging.getLogger("localcloud")


def run_in_background(work: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> None:
    """Do this in a thread of its own."""

    def logged() -> None:
        try:
            work(*arguments, **named)
        except Exception:
            log.exception("background work failed: %s", work)

    Thread(target=logged, daemon=True).start()


def repeat(work: Callable[[], object], every_s: float, over: Event) -> None:
    """Do this again and again, with a pause between, until ``over`` is set."""

    def again() -> None:
        while not over.wait(every_s):
            try:
                work()
            except Exception:
                log.exception("repeated work failed: %s", work)

    Thread(target=again, daemon=True).start()
