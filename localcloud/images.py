"""EC2 images: CreateImage copies a machine's disk, and names, tags, states and events follow."""

from __future__ import annotations

import uuid
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import InvalidAMIIdError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.utils import convert_tag_spec, random_ami_id
from moto.ssm.models import ssm_backends

from localcloud.account import ACCOUNT, REGION
from localcloud.events import Events
from localcloud.machines import Machines
from localcloud.overlay import Method, Refusal, replace, wrap

STOCK_IMAGE = "ubuntu-stock"
STOCK_PARAMETER = "/autoprovisioner/stock-image"
"""The parameter that holds the id of the image that every bake begins with."""

_OS_RELEASE = 'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04 LTS (local cloud)"\n'


class Images:
    """EC2's images, whose disks are folders."""

    def __init__(self, events: Events, machines: Machines):
        self._events = events
        self._machines = machines

    def install(self) -> None:
        """Put disks behind moto's images."""
        images = self

        def create_image(response: Any) -> Any:
            """CreateImage: at once an id and the state pending, available when the copy is done."""
            response.error_on_dryrun()
            return ActionResult({"ImageId": images.create(response)})

        def deregister_image(response: Any) -> Any:
            """DeregisterImage, which deletes the snapshots when asked to."""
            response.error_on_dryrun()
            image = response._get_param("ImageId")
            snapshots = images.deregister(
                response.ec2_backend, image, response._get_bool_param("DeleteAssociatedSnapshots")
            )
            return ActionResult({"Return": True, "DeleteSnapshotResults": snapshots})

        replace(AmisResponse, create_image)
        replace(AmisResponse, deregister_image)
        wrap(EC2Backend, "describe_images", _refusing_unknown)

    def add_stock_image(self) -> str:
        """Make the stock image, a nearly empty disk, and the parameter that names it; return its id."""
        backend = ec2_backends[ACCOUNT][REGION]
        image = Ami(
            backend, random_ami_id(), name=STOCK_IMAGE, description="A freshly installed server", architecture="x86_64"
        )
        disk = self._machines.image_disk(image.id)
        for folder in ("etc", "var/lib", "var/log", "tmp", "srv", "run"):
            (disk / folder).mkdir(parents=True)
        (disk / "etc" / "os-release").write_text(_OS_RELEASE)
        backend.amis[image.id] = image
        ssm_backends[ACCOUNT][REGION].put_parameter(
            name=STOCK_PARAMETER,
            description="The image that every bake begins with",
            value=image.id,
            parameter_type="String",
            allowed_pattern="",
            keyid="",
            overwrite=False,
            tags=[],
            data_type="text",
            tier="Standard",
            policies=None,
        )
        return str(image.id)

    def create(self, response: Any) -> str:
        """Begin an image of an instance. Raises InvalidAMIName.Duplicate and InvalidInstanceID.NotFound."""
        backend, name = response.ec2_backend, response._get_param("Name")
        instance = backend.get_instance(response._get_param("InstanceId"))
        if instance.state not in ("running", "stopped"):
            raise Refusal("IncorrectInstanceState", f"Instance '{instance.id}' is {instance.state}.")
        _refuse_duplicate(backend, name)
        image = Ami(
            backend,
            random_ami_id(),
            instance=instance,
            name=name,
            description=response._get_param("Description", ""),
            state="pending",
        )
        tags = convert_tag_spec(response._get_param("TagSpecifications", []))
        image.add_tags(tags.get("image", {}))
        image.ebs_snapshot.add_tags(tags.get("snapshot", {}))
        backend.amis[image.id] = image
        reboot = not response._get_bool_param("NoReboot")
        self._machines.snapshot(instance.id, image.id, reboot=reboot, done=lambda wrong: self._copied(image, wrong))
        return str(image.id)

    def deregister(self, backend: Any, image: str, with_snapshots: bool) -> list[dict[str, str]]:
        """Deregister an image, delete its disk, and return what became of its snapshots."""
        found = backend.amis.get(image)
        backend.deregister_image(image)
        backend.deleted_amis.clear()  # moto would go on describing it, as nothing; AWS says that it is not found
        self._machines.delete_image(image)
        self._announce(image, "deregistered", "")
        if not with_snapshots:
            return []
        backend.delete_snapshot(found.ebs_snapshot.id)
        return [{"SnapshotId": found.ebs_snapshot.id, "ReturnCode": "success"}]

    def _copied(self, image: Any, wrong: str) -> None:
        image.state = "failed" if wrong else "available"
        if wrong:
            image.state_reason = {"Code": "Server.InternalError", "Message": wrong}
        self._announce(image.id, image.state, wrong)

    def _announce(self, image: str, state: str, wrong: str) -> None:
        detail = {"RequestId": str(uuid.uuid4()), "ImageId": image, "State": state, "ErrorMessage": wrong}
        self._events.emit("aws.ec2", "EC2 AMI State Change", [f"arn:aws:ec2:{REGION}::image/{image}"], detail)


def _refuse_duplicate(backend: Any, name: str) -> None:
    for image in backend.amis.values():
        if image.name == name and image.owner_id == ACCOUNT:
            raise Refusal("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {image.id}")


def _refusing_unknown(original: Method) -> Method:
    def describe_images(backend: Any, ami_ids: list[str] | None = None, **options: Any) -> Any:
        """AWS refuses when one of the ids is unknown; moto only when all are."""
        missing = [image for image in ami_ids or () if image.startswith("ami-") and image not in backend.amis]
        if missing:
            raise InvalidAMIIdError(missing)
        return original(backend, ami_ids=ami_ids, **options)

    return describe_images
