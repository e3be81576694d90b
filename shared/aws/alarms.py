"""CloudWatch behind AlarmsPort."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from shared.aws.errors import collect, translated
from shared.aws.lots import lots
from shared.cloud import AlarmState

if TYPE_CHECKING:
    from types_aiobotocore_cloudwatch import CloudWatchClient
    from types_aiobotocore_cloudwatch.type_defs import DescribeAlarmsOutputTypeDef

NAMES_PER_CALL = 100  # DescribeAlarms.AlarmNames


class Alarms:
    """Reads the states of alarms."""

    def __init__(self, client: Callable[[], Awaitable[CloudWatchClient]]) -> None:
        self._client = client

    @translated
    async def states(self, names: Sequence[str]) -> Mapping[str, AlarmState]:
        """Return the state of each alarm; one that does not exist is INSUFFICIENT_DATA. Empty in, empty out."""
        found: dict[str, AlarmState] = dict.fromkeys(names, "INSUFFICIENT_DATA")
        for page in await collect(self._pages(names)):
            for metric in page["MetricAlarms"]:
                found[metric["AlarmName"]] = metric["StateValue"]
            for composite in page["CompositeAlarms"]:
                found[composite["AlarmName"]] = composite["StateValue"]
        return found

    async def _pages(self, names: Sequence[str]) -> AsyncIterator[DescribeAlarmsOutputTypeDef]:
        paginator = (await self._client()).get_paginator("describe_alarms")
        for lot in lots(names, NAMES_PER_CALL):
            async for page in paginator.paginate(AlarmNames=lot, AlarmTypes=["MetricAlarm", "CompositeAlarm"]):
                yield page
