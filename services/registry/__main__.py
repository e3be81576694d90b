"""``python -m services.registry``."""

from services.registry.handler import Registry
from services.registry.images import Images
from services.registry.members import Members
from services.registry.pointers import Pointers
from services.registry.releases import ReleaseRequests
from shared.components import Components
from shared.runtime import Services, run_service
from shared.sweeps import Sweeps


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
    releases = ReleaseRequests(Components(services.objects, services.publisher, services.clock))
    sweeps = Sweeps(services.alerts, services.fleets, "registry")
    return Registry(fleets=services.fleets, sweeps=sweeps, images=images, members=members, releases=releases)


if __name__ == "__main__":
    run_service("registry", make)
