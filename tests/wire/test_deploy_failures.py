"""A stack that fails, on LocalStack itself: what is said, and that what is said helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import messaging
from deploy.messaging import STACK, DeployError, apply_messaging, service_environment
from deploy.template import TEMPLATE
from tests import localstack
from tests.wire.running import Endpoint, until


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A LocalStack on which nothing was deployed yet, with this process's environment pointing at it."""
    running = localstack.start(tmp_path / "localstack")
    endpoint = Endpoint(running.url, is_localstack=True)
    for name, value in endpoint.environment.items():
        monkeypatch.setenv(name, value)
    yield endpoint
    endpoint.disconnect()
    running.close()


async def test_a_stack_that_failed_says_why_and_is_well_after_what_it_says_to_do(
    plane: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        TEMPLATE.read_text().replace("QueueName: autoprovisioner-chaos\n", "QueueName: no name at all!\n")
    )
    monkeypatch.setattr(messaging, "TEMPLATE", broken)
    with pytest.raises(DeployError) as first:
        await apply_messaging(say=lambda _: None)
    assert "ChaosQueue: " in str(first.value)
    assert f"delete-stack --stack-name {STACK}" in str(first.value)
    with pytest.raises(DeployError, match=f"delete-stack --stack-name {STACK}"):
        await apply_messaging(say=lambda _: None)

    plane.aws("cloudformation", "delete-stack", "--stack-name", STACK)
    until(lambda: STACK not in plane.aws("cloudformation", "list-stacks", "--stack-status-filter", "CREATE_FAILED"))
    monkeypatch.setattr(messaging, "TEMPLATE", TEMPLATE)
    await apply_messaging(say=lambda _: None)
    assert (await service_environment("chaos"))["AUTOPROVISIONER_QUEUE_URL"].endswith("autoprovisioner-chaos")
