"""``python -m services.registry``."""

from services.registry.handler import Registry
from services.registry.images import Images
from services.registry.members import Members
from services.registry.pointers import Pointers
from shared.runtime import Services, run_service


def make(services: Services) -> Registry:
    """Build the service from what the environment offers."""
    images = Images(
        servers=services.servers,
        documents=services.documents,
        pointers=Pointers(services.objects),
        publisher=services.publisher,
        alerts=services.alerts,
        clock=services.clock,
    )
    members = Members(
        groups=services.groups,
        servers=services.servers,
        documents=services.documents,
        publisher=services.publisher,
        clock=services.clock,
    )
    return Registry(fleets=services.fleets, images=images, members=members)


if __name__ == "__main__":
    run_service("registry", make)
