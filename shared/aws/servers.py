"""EC2 behind ServersPort."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from botocore.model import ListShape, Shape, StructureShape

from shared.aws.errors import collect, error_code, kind_of, translated
from shared.aws.lots import lots
from shared.cloud import Image, Instance, NotFound, Refused, TemplateVersion
from shared.ids import FLEET_TAG, IMAGE_PATTERN

if TYPE_CHECKING:
    from types_aiobotocore_ec2 import EC2Client
    from types_aiobotocore_ec2.literals import ResourceTypeType
    from types_aiobotocore_ec2.type_defs import (
        DescribeInstancesResultTypeDef,
        FilterTypeDef,
        ImageTypeDef,
        InstanceTypeDef,
        LaunchTemplateVersionTypeDef,
        TagSpecificationTypeDef,
        TagTypeDef,
    )
    from types_aiobotocore_ssm import SSMClient

FILTER_VALUES = 200  # of one filter in a Describe call
TOKEN_LENGTH = 64  # RunInstances.ClientToken; CreateLaunchTemplateVersion takes 128

_LIVING = ["pending", "running", "shutting-down", "stopping", "stopped"]


class Servers:
    """Instances, images and launch templates of our own account."""

    def __init__(self, ec2: Callable[[], Awaitable[EC2Client]], parameters: Callable[[], Awaitable[SSMClient]]) -> None:
        self._ec2 = ec2
        self._parameters = parameters

    @translated
    async def instances(self, servers: Sequence[str]) -> Mapping[str, Instance]:
        """Return those of the instances that EC2 knows; an id that is missing proves nothing. Empty in, empty out."""
        # A filter, since InstanceIds fails as a whole when one of them is unknown.
        filters: list[list[FilterTypeDef]] = [
            [{"Name": "instance-id", "Values": lot}] for lot in lots(servers, FILTER_VALUES)
        ]
        return {instance.server: instance for instance in await self._described(filters)}

    @translated
    async def tagged(self, tags: Mapping[str, str]) -> Sequence[Instance]:
        """Return all instances with all of these tags that are not terminated.

        Raises:
            ValueError: no tags, which would mean every instance there is.
        """
        if not tags:
            raise ValueError("no tags: that would be every instance of the account")
        filters: list[FilterTypeDef] = [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]
        return await self._described([[*filters, {"Name": "instance-state-name", "Values": _LIVING}]])

    async def _described(self, filters: Sequence[list[FilterTypeDef]]) -> list[Instance]:
        pages = await collect(self._instance_pages(filters))
        reservations = [reservation for page in pages for reservation in page["Reservations"]]
        return [_instance(found) for reservation in reservations for found in reservation["Instances"]]

    async def _instance_pages(
        self, filters: Sequence[list[FilterTypeDef]]
    ) -> AsyncIterator[DescribeInstancesResultTypeDef]:
        paginator = (await self._ec2()).get_paginator("describe_instances")
        for each in filters:
            async for page in paginator.paginate(Filters=each):
                yield page

    @translated
    async def launch(self, token: str, image: str, fleet: str, tags: Mapping[str, str]) -> str:
        """Launch one instance like the fleet's launch template but with this image; same token, same instance."""
        client = await self._ec2()
        answer = await client.run_instances(
            LaunchTemplate={"LaunchTemplateName": fleet, "Version": "$Default"},
            ImageId=image,
            ClientToken=_token(token),
            MinCount=1,
            MaxCount=1,
            TagSpecifications=_specifications(tags, "instance", "volume"),
        )
        return answer["Instances"][0]["InstanceId"]

    @translated
    async def tag(self, resource: str, tags: Mapping[str, str]) -> None:
        """Set tags on an instance, image or snapshot."""
        await (await self._ec2()).create_tags(Resources=[resource], Tags=_tags(tags))

    @translated
    async def terminate(self, server: str) -> None:
        """Terminate an instance that is in no group."""
        await (await self._ec2()).terminate_instances(InstanceIds=[server])

    @translated
    async def create_image(self, server: str, name: str, tags: Mapping[str, str]) -> str:
        """Snapshot the server (rebooting it, so that the disk is whole) into an image with this name.

        CreateImage takes no token, so the name is what makes it safe to repeat: an image of that name is adopted.

        Raises:
            Refused: an image of that name carries other tags than these.
        """
        client = await self._ec2()
        try:
            answer = await client.create_image(
                InstanceId=server,
                Name=name,
                NoReboot=False,
                TagSpecifications=_specifications(tags, "image", "snapshot"),
            )
        except ClientError as error:
            if error_code(error) == "InvalidAMIName.Duplicate":
                return await self._adopted(name, tags)
            raise
        return answer["ImageId"]

    async def _adopted(self, name: str, tags: Mapping[str, str]) -> str:
        for image in await self._images([{"Name": "name", "Values": [name]}]):
            if all(image.tags.get(key) == value for key, value in tags.items()):
                return image.image
            raise Refused(f"{image.image} has the name {name!r} and other tags: {dict(image.tags)}")
        raise NotFound(f"the image name {name!r} is taken, and no image has it yet")

    @translated
    async def images(self, fleet: str) -> Sequence[Image]:
        """Return all images of our own that carry the fleet's tag."""
        return await self._images([{"Name": f"tag:{FLEET_TAG}", "Values": [fleet]}])

    @translated
    async def image(self, image: str) -> Image | None:
        """Return an image of our own account, or None when there is no such."""
        return next(iter(await self._images([{"Name": "image-id", "Values": [image]}])), None)

    async def _images(self, filters: list[FilterTypeDef]) -> list[Image]:
        paginator = (await self._ec2()).get_paginator("describe_images")
        pages = await collect(paginator.paginate(Owners=["self"], Filters=filters))
        return [_image(found) for page in pages for found in page["Images"]]

    @translated
    async def deregister(self, image: Image) -> None:
        """Deregister the image and delete its snapshots; what is gone already is passed over.

        One call does both: a snapshot whose image is gone would never be found again.
        """
        client = await self._ec2()
        await _unless_gone(client.deregister_image(ImageId=image.image, DeleteAssociatedSnapshots=True))
        for snapshot in image.snapshots:
            await _unless_gone(client.delete_snapshot(SnapshotId=snapshot))

    @translated
    async def stock_image(self, stock: str) -> str:
        """Return the image id that ``stock`` names: an image id itself, or a parameter that holds one.

        Raises:
            Refused: the parameter holds something else.
        """
        if re.fullmatch(IMAGE_PATTERN, stock):
            return stock
        answer = await (await self._parameters()).get_parameter(Name=stock)
        value = answer["Parameter"].get("Value", "")
        if not re.fullmatch(IMAGE_PATTERN, value):
            raise Refused(f"the parameter {stock} holds {value!r}, which is not an image id")
        return value

    @translated
    async def templates(self, fleet: str) -> Sequence[TemplateVersion]:
        """Return every version of the fleet's launch template."""
        versions = await self._versions(fleet)
        return [
            TemplateVersion(found["VersionNumber"], _data(found).get("ImageId", ""), found["DefaultVersion"])
            for found in versions
        ]

    @translated
    async def set_template_image(self, fleet: str, image: str) -> int:
        """Make a launch template version with this image the default, a new one if need be; return its number.

        A version is used again only if it equals the present default in all but the image.
        """
        versions = await self._versions(fleet)
        default = next(found for found in versions if found["DefaultVersion"])
        wanted = {**_data(default), "ImageId": image}
        number = next((found["VersionNumber"] for found in reversed(versions) if _data(found) == wanted), None)
        if number is None:
            number = await self._new_version(fleet, wanted, f"{fleet} {image} {default['VersionNumber']}")
        if number != default["VersionNumber"]:
            client = await self._ec2()
            await client.modify_launch_template(LaunchTemplateName=fleet, DefaultVersion=str(number))
        return number

    async def _versions(self, fleet: str) -> list[LaunchTemplateVersionTypeDef]:
        paginator = (await self._ec2()).get_paginator("describe_launch_template_versions")
        pages = await collect(paginator.paginate(LaunchTemplateName=fleet))
        found = [version for page in pages for version in page["LaunchTemplateVersions"]]
        return sorted(found, key=lambda version: version["VersionNumber"])

    async def _new_version(self, fleet: str, data: Mapping[str, Any], why: str) -> int:
        client = await self._ec2()
        request = client.meta.service_model.shape_for("RequestLaunchTemplateData")
        answer = await client.create_launch_template_version(
            LaunchTemplateName=fleet,
            LaunchTemplateData=_only(request, data),
            ClientToken=_token(hashlib.sha256(why.encode()).hexdigest()),
        )
        return answer["LaunchTemplateVersion"]["VersionNumber"]


async def _unless_gone(call: Awaitable[object]) -> None:
    try:
        await call
    except ClientError as error:
        if kind_of(error) is not NotFound:
            raise


def _only(shape: Shape, value: Any) -> Any:
    """Keep what a request may carry of an answer: ``MetadataOptions.State``, for one, is only ever told. Pure."""
    if isinstance(shape, StructureShape):
        return {name: _only(shape.members[name], part) for name, part in value.items() if name in shape.members}
    if isinstance(shape, ListShape):
        return [_only(shape.member, part) for part in value]
    return value


def _data(version: LaunchTemplateVersionTypeDef) -> dict[str, Any]:
    return dict(version.get("LaunchTemplateData", {}))


def _token(text: str) -> str:
    """Return the text, or its digest where it is too long for a client token. Pure."""
    return text if len(text) <= TOKEN_LENGTH else hashlib.sha256(text.encode()).hexdigest()


def _tags(tags: Mapping[str, str]) -> list[TagTypeDef]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _specifications(tags: Mapping[str, str], *kinds: ResourceTypeType) -> list[TagSpecificationTypeDef]:
    return [{"ResourceType": kind, "Tags": _tags(tags)} for kind in kinds] if tags else []


def _plain(tags: Sequence[TagTypeDef]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def _instance(found: InstanceTypeDef) -> Instance:
    return Instance(
        server=found["InstanceId"],
        state=found["State"]["Name"],
        image=found["ImageId"],
        address=found.get("PrivateIpAddress", ""),
        launched=found["LaunchTime"].astimezone(UTC),
        zone=found.get("Placement", {}).get("AvailabilityZone", ""),
        tags=_plain(found.get("Tags", [])),
    )


def _image(found: ImageTypeDef) -> Image:
    disks = [disk.get("Ebs", {}) for disk in found.get("BlockDeviceMappings", [])]
    return Image(
        image=found["ImageId"],
        name=found.get("Name", ""),
        state=found["State"],
        created=datetime.fromisoformat(found["CreationDate"]).astimezone(UTC),
        snapshots=tuple(disk["SnapshotId"] for disk in disks if "SnapshotId" in disk),
        tags=_plain(found.get("Tags", [])),
        reason=found.get("StateReason", {}).get("Message", ""),
    )
