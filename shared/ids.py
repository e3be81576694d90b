"""Names and ids as they may appear in messages, documents and requests.

All are matched whole: in the regular expressions of pydantic's core, ``$`` is the end of the text and nothing else;
elsewhere use ``re.fullmatch``.
"""

from typing import Annotated

from pydantic import StringConstraints

FLEET_PATTERN = r"^[a-z][a-z0-9-]{0,62}$"
SERVER_PATTERN = r"^i-[0-9a-f]{8}([0-9a-f]{9})?$"
IMAGE_PATTERN = r"^ami-[0-9a-f]{8}([0-9a-f]{9})?$"

FleetName = Annotated[str, StringConstraints(pattern=FLEET_PATTERN)]
"""A fleet, which is also the name of its Auto Scaling group and its launch template."""

ServerId = Annotated[str, StringConstraints(pattern=SERVER_PATTERN)]
"""An EC2 instance id, short or long form."""

ImageId = Annotated[str, StringConstraints(pattern=IMAGE_PATTERN)]
"""An AMI id, short or long form."""

BakeId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}-[0-9]{8}t[0-9]{6}$")]
"""One bake: the fleet's name and the UTC second in which it was asked for, ``web-20260131t020000``."""

ComponentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
"""A component of a fleet that has releases of its own."""

Version = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z._+-]{0,62}$")]
"""A release's version."""

StepName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
"""A step of a provisioning plan."""

MANAGED_TAG = "autoprovisioner:managed"
"""Nothing is touched that does not carry this tag with the value ``true``."""

FLEET_TAG = "autoprovisioner:fleet"
BAKE_TAG = "autoprovisioner:bake"
ROLE_TAG = "autoprovisioner:role"
QUARANTINE_TAG = "autoprovisioner:quarantined-since"

PROVEN_TAG = "autoprovisioner:proven"
"""``true`` on an image from which a server was launched and found complete. Nothing else becomes a fleet's image."""
