"""Applies ``messaging.yaml``, and says what environment the services need: ``python -m deploy.messaging``.

Where, and as whom, follows from the AWS_* environment.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Callable

from deploy.shim import supply
from deploy.template import TEMPLATE, Place, load_template
from shared.aws.errors import translated
from shared.aws.session import Clients, open_clients
from shared.clock import Clock, SystemClock
from shared.cloud import CloudError, NotFound, Refused
from shared.names import SERVICES, ServiceName, queue_name
from shared.settings import PREFIX

STACK = "autoprovisioner"
PASSED_OVER = "unknown"
"""The physical id that LocalStack gives a resource of a type that it does not know."""

POLL_S = 1.0
"""Between looks at a stack under way. On AWS it takes a minute or two; emulators are done before the first look."""

PATIENCE_S = 900.0
"""A stack that is under way for longer than this has stuck."""

ALLOCATOR = {"MALLOC_ARENA_MAX": "1"}
"""Else glibc keeps for each thread what it gave back: a third of the memory of a service that reads manifests."""

NEVER_WHOLE = frozenset(
    {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "REVIEW_IN_PROGRESS"}
)
"""States out of which a stack cannot be updated: it was never made, or never taken away, in full."""

UNFINISHED = frozenset({"UPDATE_ROLLBACK_FAILED", "UPDATE_FAILED"})

UNDER_WAY = (
    "CREATE_IN_PROGRESS",
    "UPDATE_IN_PROGRESS",
    "ROLLBACK_IN_PROGRESS",
    "DELETE_IN_PROGRESS",
    "CLEANUP_IN_PROGRESS",
)
"""How states end that pass by themselves; REVIEW_IN_PROGRESS does not."""

BEGINNINGS = frozenset({"CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"})

Say = Callable[[str], None]


class DeployError(Exception):
    """Deploying failed; the message is a sentence for the person who asked for it."""


@translated
async def apply_messaging(bucket: str = "autoprovisioner", say: Say = print) -> None:
    """Create or update the stack, and supply what an emulator left out. Safe to repeat.

    Raises:
        DeployError: CloudFormation gave up; the sentence names the resource and the reason.
        CloudError: AWS did not answer, or refused.
    """
    body = TEMPLATE.read_text()
    async with open_clients() as clients:
        stack = _Stack(clients, SystemClock(), say)
        await stack.apply(body, bucket)
        supplied = await supply(clients, load_template(body), await stack.place(), await stack.made())
        if supplied:
            say(f"{STACK}: supplied {len(supplied)} resources that CloudFormation passed over here")


@translated
async def service_environment(service: ServiceName) -> dict[str, str]:
    """Return what a service's environment must hold besides the AWS_* variables.

    Raises:
        NotFound: the stack, or a queue, is not there.
    """
    async with open_clients() as clients:
        stack = _Stack(clients, SystemClock(), print)
        outputs = await stack.outputs()
        sqs = await clients.sqs()
        queue = await sqs.get_queue_url(QueueName=queue_name(service))
        dead = await sqs.get_queue_url(QueueName=f"{queue_name(service)}-dead")
    return {
        f"{PREFIX}BUCKET": outputs["Bucket"],
        f"{PREFIX}TOPIC_PREFIX": outputs["TopicPrefix"],
        f"{PREFIX}QUEUE_URL": queue["QueueUrl"],
        f"{PREFIX}DEAD_LETTER_URL": dead["QueueUrl"],
        **ALLOCATOR,
    }


class _Stack:
    def __init__(self, clients: Clients, clock: Clock, say: Say) -> None:
        self._clients = clients
        self._clock = clock
        self._say = say

    async def apply(self, body: str, bucket: str) -> None:
        status = await self._ended()  # of what somebody else has begun
        if status in NEVER_WHOLE | UNFINISHED:
            raise DeployError(f"the stack {STACK} is {status}: {next_step(status)}")
        if status is None:
            await self._create(body, bucket)
        elif await self._same(body, bucket) or not await self._update(body, bucket):
            self._say(f"{STACK}: nothing to change")
            return
        await self._finish()

    @translated
    async def _status(self) -> str | None:
        try:
            return await self._described()
        except Refused as error:
            if "does not exist" in str(error):
                return None
            raise

    @translated
    async def _described(self) -> str:
        cloudformation = await self._clients.cloudformation()
        answer = await cloudformation.describe_stacks(StackName=STACK)
        return answer["Stacks"][0]["StackStatus"]

    async def _same(self, body: str, bucket: str) -> bool:
        cloudformation = await self._clients.cloudformation()
        present = await cloudformation.get_template(StackName=STACK, TemplateStage="Original")
        return str(present["TemplateBody"]) == body and (await self.outputs())["Bucket"] == bucket

    async def _create(self, body: str, bucket: str) -> None:
        self._say(f"{STACK}: creating")
        cloudformation = await self._clients.cloudformation()
        await cloudformation.create_stack(
            StackName=STACK, TemplateBody=body, Parameters=[{"ParameterKey": "Bucket", "ParameterValue": bucket}]
        )

    async def _update(self, body: str, bucket: str) -> bool:
        try:
            await self._updated(body, bucket)
        except Refused as error:
            if "No updates are to be performed" in str(error):
                return False
            raise
        self._say(f"{STACK}: updating")
        return True

    @translated
    async def _updated(self, body: str, bucket: str) -> None:
        cloudformation = await self._clients.cloudformation()
        await cloudformation.update_stack(
            StackName=STACK, TemplateBody=body, Parameters=[{"ParameterKey": "Bucket", "ParameterValue": bucket}]
        )

    async def _finish(self) -> None:
        """Wait for the end; raise DeployError when it is not the wanted one."""
        status = await self._ended()
        if status is None:
            raise DeployError(f"somebody deleted the stack {STACK} meanwhile: apply again")
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            why = await self._first_failure()
            raise DeployError(f"the stack {STACK} ended as {status}: {why}; {next_step(status)}")
        self._say(f"{STACK}: {status.lower().replace('_', ' ')}")

    async def _ended(self) -> str | None:
        """Wait until nothing is under way, telling what is done; return the state, None without a stack."""
        until = self._clock.monotonic() + PATIENCE_S
        told: set[str] = set()
        while (status := await self._status()) is not None and status.endswith(UNDER_WAY):
            await self._tell(told)
            if self._clock.monotonic() > until:
                raise DeployError(f"the stack {STACK} is still {status} after {PATIENCE_S:.0f} s")
            await self._clock.sleep(POLL_S)
        return status

    async def _tell(self, told: set[str]) -> None:
        cloudformation = await self._clients.cloudformation()
        answer = await cloudformation.describe_stack_resources(StackName=STACK)
        for resource in answer["StackResources"]:
            name = resource["LogicalResourceId"]
            if resource["ResourceStatus"].endswith("_COMPLETE") and name not in told:
                told.add(name)
                self._say(f"{STACK}: {name} {resource['ResourceStatus'].lower().replace('_', ' ')}")

    async def _first_failure(self) -> str:
        """Say what failed first since the stack was last told to change: what comes after it only follows from it."""
        cloudformation = await self._clients.cloudformation()
        first = ""
        async for page in cloudformation.get_paginator("describe_stack_events").paginate(StackName=STACK):
            for event in page["StackEvents"]:  # the newest comes first
                name, status = event.get("LogicalResourceId", ""), event.get("ResourceStatus", "")
                if name == STACK and status in BEGINNINGS:
                    return first or await self._stacks_reason()
                if status.endswith("_FAILED") and "ResourceStatusReason" in event:
                    first = f"{name}: {event['ResourceStatusReason']}"
        return first or await self._stacks_reason()

    async def _stacks_reason(self) -> str:
        cloudformation = await self._clients.cloudformation()
        stack = (await cloudformation.describe_stacks(StackName=STACK))["Stacks"][0]
        return stack.get("StackStatusReason", "CloudFormation gives no reason")

    async def outputs(self) -> dict[str, str]:
        if await self._status() is None:
            raise NotFound(f"there is no stack {STACK}: apply the messages first")
        cloudformation = await self._clients.cloudformation()
        stack = (await cloudformation.describe_stacks(StackName=STACK))["Stacks"][0]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    async def place(self) -> Place:
        outputs = await self.outputs()
        _, partition, _, region, account, _ = outputs["TopicPrefix"].split(":")
        return Place(partition, region, account, outputs["Bucket"])

    async def made(self) -> frozenset[str]:
        cloudformation = await self._clients.cloudformation()
        answer = await cloudformation.describe_stack_resources(StackName=STACK)
        return frozenset(
            resource["LogicalResourceId"]
            for resource in answer["StackResources"]
            if resource.get("PhysicalResourceId") not in (None, "", PASSED_OVER)
        )


def next_step(status: str) -> str:
    """Say what to do about a stack that ended so. Pure."""
    if status in NEVER_WHOLE:
        return (
            "nothing can be changed in it. Mend that, "
            f"type aws cloudformation delete-stack --stack-name {STACK}, and apply again"
        )
    if status in UNFINISHED:
        return (
            f"type aws cloudformation continue-update-rollback --stack-name {STACK}, and apply again once that is done"
        )
    return "everything is as it was before. Mend that, and apply again"


async def _run(bucket: str) -> None:
    await apply_messaging(bucket)
    for service in SERVICES:
        print(f"\n# {service}")
        for name, value in (await service_environment(service)).items():
            print(f"{name}={value}")


def main() -> None:
    """Apply the template and print every service's environment."""
    parser = argparse.ArgumentParser(prog="python -m deploy.messaging", description=main.__doc__)
    parser.add_argument("--bucket", default="autoprovisioner", help="the bucket of documents (default: %(default)s)")
    arguments = parser.parse_args()
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", arguments.bucket):
        sys.exit(f"{arguments.bucket!r} cannot be a bucket: 3 to 63 lower-case letters, digits, dots and dashes")
    try:
        asyncio.run(_run(arguments.bucket))
    except (DeployError, CloudError) as error:
        sys.exit(f"messages were not deployed: {error}")


if __name__ == "__main__":
    main()
