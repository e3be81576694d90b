"""``python -m services.janitor``."""

from services.janitor.handler import Janitor
from shared.runtime import Services, run_service


def make(services: Services) -> Janitor:
    """Wire the handler."""
    return Janitor(
        groups=services.groups,
        servers=services.servers,
        publisher=services.publisher,
        clock=services.clock,
        documents=services.documents,
        fleets=services.fleets,
        alerts=services.alerts,
    )


if __name__ == "__main__":
    run_service("janitor", make)
