"""A service whose handler does nothing: all that is left is the consumer. ``python -m bench.idle_service``."""

from __future__ import annotations

from shared.events import Incoming
from shared.outcome import Done, Outcome
from shared.runtime import Services, run_service


class Nothing:
    """Handles everything by doing nothing."""

    def __init__(self, services: Services) -> None:
        pass

    async def handle(self, incoming: Incoming) -> Outcome:
        """Say that there is nothing to do."""
        return Done("there is nothing to do")


if __name__ == "__main__":
    run_service("janitor", Nothing)
