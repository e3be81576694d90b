"""What Auto Scaling groups ask of the rest of the local cloud, and what they are told of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from moto.core.exceptions import ServiceException
from moto.ec2.models import ec2_backends

from localcloud.account import ACCOUNT, REGION
from localcloud.delivery import Deliver
from localcloud.events import Events
from localcloud.groups import Groups, LaunchFailed
from localcloud.groupvalues import Launched, LaunchInstance, TemplateRef
from localcloud.instances import Instances
from localcloud.machines import Machines, MachineState, NoMachine
from shared.clock import Clock

GROUP_TAG = "aws:autoscaling:groupName"


def make_groups(instances: Instances, machines: Machines, events: Events, deliver: Deliver, clock: Clock) -> Groups:
    """Return groups that launch and terminate machines, and hear what becomes of them."""

    def terminate(instance: str) -> None:
        try:
            ended = machines.get(instance).state == "terminated"
        except NoMachine:
            ended = True
        if ended:
            groups.instance_terminated(instance)
        else:
            machines.terminate(instance)

    def hear(instance: str, state: MachineState) -> None:
        report = {
            "running": groups.instance_running,
            "stopped": groups.instance_stopped,
            "terminated": groups.instance_terminated,
        }.get(state)
        if report:
            report(instance)

    groups = Groups(
        launch=_launch,
        terminate=terminate,
        disown=_disown,
        publish=events.publish,
        send=lambda arn, body: deliver(arn, json.dumps(body)),
        now=lambda: clock.now().timestamp(),
        account=ACCOUNT,
        region=REGION,
    )
    instances.listeners.append(hear)
    return groups


def _launch(order: LaunchInstance) -> Launched:
    """Start an instance as a group orders it. Raises LaunchFailed."""
    backend = ec2_backends[ACCOUNT][REGION]
    try:
        template = backend._get_template_from_args(_named(order.template))
        [instance] = backend.run_instances(
            image_id="",
            count=1,
            user_data=None,
            security_group_names=[],
            instance_type="t3.micro",
            is_instance_type_default=True,
            launch_template={"LaunchTemplateId": template.template.id, "Version": str(template.number)},
            tags={"instance": dict(order.tags)},
            placement=order.zone or None,
            subnet_id=_subnet(backend, order),
            region_name=REGION,
        ).instances
    except (ServiceException, NoMachine) as refusal:
        raise LaunchFailed(str(refusal)) from refusal
    return Launched(
        instance=instance.id,
        image=instance.image_id,
        type=instance.instance_type,
        version=str(template.number),
        template_id=template.template.id,
        template_name=template.template.name,
    )


def _named(template: TemplateRef) -> Mapping[str, str]:
    name = {"LaunchTemplateId": template.id} if template.id else {"LaunchTemplateName": template.name}
    return {**name, "Version": template.version}


def _subnet(backend: Any, order: LaunchInstance) -> str | None:
    """Return the first of the group's subnets in the zone of the order, if the group has any."""
    for subnet in order.subnets.split(",") if order.subnets else ():
        if order.zone in ("", backend.get_subnet(subnet).availability_zone):
            return subnet
    return None


def _disown(instance: str) -> None:
    ec2_backends[ACCOUNT][REGION].delete_tag_keys([instance], [GROUP_TAG])
