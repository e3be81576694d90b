"""``python -m services.baker``."""

from services.baker.handler import Baker
from shared.audit import Audits
from shared.components import Components
from shared.runs import AGENT, Runs
from shared.runtime import Services, run_service


def make(services: Services) -> Baker:
    """Build the service from what the environment offers."""
    return Baker(
        servers=services.servers,
        documents=services.documents,
        fleets=services.fleets,
        components=Components(services.objects, services.publisher, services.clock),
        runs=Runs(services.commands, services.objects, services.clock, AGENT),
        publisher=services.publisher,
        alerts=services.alerts,
        audits=Audits(services.documents, services.clock, services.name),
        clock=services.clock,
    )


if __name__ == "__main__":
    run_service("baker", make)
