"""EC2 instances: moto keeps the records, machines do the work, and state changes are announced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import InvalidInstanceIdError, UnvailableAMIIdError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.instances import InstanceState, StateReason
from moto.ec2.responses.instances import InstanceResponse
from moto.ssm.models import ssm_backends

from localcloud.account import ACCOUNT, REGION, arn
from localcloud.events import Events
from localcloud.machines import Machines, MachineState, NoMachine
from localcloud.overlay import Method, Refusal, replace, wrap
from localcloud.tokens import once_per_token

CODES: dict[str, int] = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}

Listener = Callable[[str, MachineState], None]

_RESOLVE = "resolve:ssm:"


class Instances:
    """EC2's instances of the one account and region that have machines."""

    def __init__(self, events: Events):
        self.listeners: list[Listener] = []
        self._events = events
        self._machines: Machines

    def changed(self, name: str, state: MachineState, why: str) -> None:
        """Record and announce a machine's new state."""
        instance = find(name)
        if state == "terminated":
            instance.terminate()  # moto lets go of addresses and volumes
        _set_state(instance, state, why)
        detail = {"instance-id": name, "state": state}
        self._events.emit("aws.ec2", "EC2 Instance State-change Notification", [arn("ec2", f"instance/{name}")], detail)
        for listener in self.listeners:
            listener(name, state)

    def install(self, machines: Machines) -> None:
        """Put machines behind moto's instances."""
        self._machines = machines
        wrap(EC2Backend, "run_instances", self._run_instances)
        wrap(EC2Backend, "do_resources_exist", _instances_too)
        wrap(InstanceResponse, "run_instances", once_per_token)
        replace(EC2Backend, self._power("terminate_instances", machines.terminate))
        replace(EC2Backend, self._power("stop_instances", machines.stop))
        replace(EC2Backend, self._power("start_instances", machines.start))
        replace(EC2Backend, self._power("reboot_instances", machines.reboot))
        replace(InstanceResponse, terminate_instances)

    def _run_instances(self, original: Method) -> Method:
        def run_instances(backend: Any, image_id: str, count: int, *arguments: Any, **options: Any) -> Any:
            image = _image_to_launch(backend, image_id, options.get("launch_template"))
            reservation = original(backend, image, count, *arguments, **options)
            for instance in reservation.instances:
                self._power_on(instance, image)
            return reservation

        return run_instances

    def _power_on(self, instance: Any, image: str) -> None:
        _set_state(instance, "pending", "")
        instance.nics[0].private_ip_address = self._machines.launch(instance.id, image).address

    def _power(self, name: str, act: Callable[[str], None]) -> Method:
        def change(backend: Any, instance_ids: Sequence[str]) -> list[tuple[Any, Any]]:
            changed = []
            for instance in backend.get_multi_instances_by_id(list(instance_ids)):
                before = copy.copy(instance.instance_state)
                try:
                    act(instance.id)
                except NoMachine as wrong:
                    raise Refusal("IncorrectInstanceState", str(wrong)) from wrong
                changed.append((instance, before))
            return changed

        change.__name__ = name
        return change


def find(name: str) -> Any:
    """Return moto's record of an instance, in our account and region. Raises InvalidInstanceID.NotFound."""
    found = ec2_backends[ACCOUNT][REGION].get_instance_by_id(name)
    if found is None:
        raise InvalidInstanceIdError(name)
    return found


def _instances_too(original: Method) -> Method:
    """Have what is about to be tagged exist: moto asks of everything but instances."""

    def do_resources_exist(backend: Any, resource_ids: Sequence[str]) -> Any:
        for each in resource_ids:
            if each.startswith("i-"):
                find(each)
        return original(backend, resource_ids)

    return do_resources_exist


def terminate_instances(response: Any) -> Any:
    """TerminateInstances, without moto's own idea of what groups do then."""
    response.error_on_dryrun()
    ended = response.ec2_backend.terminate_instances(response._get_param("InstanceIds", []))
    return ActionResult(
        {
            "TerminatingInstances": [
                {"InstanceId": instance.id, "CurrentState": instance.instance_state, "PreviousState": before}
                for instance, before in ended
            ]
        }
    )


def _set_state(instance: Any, state: MachineState, why: str) -> None:
    instance._state = InstanceState(state, CODES[state])
    instance._reason = why
    instance.state_reason = StateReason(why, why.partition(":")[0])


def _image_to_launch(backend: Any, image: str, template: Any) -> str:
    """Return the id of the image that a launch means. Raises what RunInstances answers when it cannot be launched."""
    image = image or (backend._get_template_from_args(template).image_id if template else "")
    if image.startswith(_RESOLVE):
        image = ssm_backends[ACCOUNT][REGION].get_parameter(image.removeprefix(_RESOLVE)).value
    if not image:
        raise Refusal("MissingParameter", "The request must contain the parameter ImageId")
    found = backend.describe_images(ami_ids=[image])[0]
    if found.state != "available":
        raise UnvailableAMIIdError(image)
    return image
