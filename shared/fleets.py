"""The fleets there are, as their owners described them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from pydantic import ValidationError

from shared.cloud import ObjectsPort
from shared.documents import CorruptDocument
from shared.fleet import Fleet
from shared.ids import FLEET_PATTERN
from shared.records import config_key

_NAME = re.compile(FLEET_PATTERN)


class UnknownFleet(Exception):
    """Nobody described a fleet of this name; the message is a sentence for the person who asked."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no fleet {name!r}: nothing describes it at {config_key(name)}")
        self.name = name


class Fleets:
    """Reads fleet descriptions. They are read anew each time: an owner's change counts from the next message on."""

    def __init__(self, objects: ObjectsPort) -> None:
        self._objects = objects

    async def folders(self) -> Sequence[str]:
        """Return the names of all folders that may be a fleet's, sorted. Raises CloudError.

        A folder has thousands of objects in time, so only the folders are listed.
        """
        return [name for name in await self._objects.folders("fleets/") if _is_name(name)]

    async def names(self) -> Sequence[str]:
        """Return the names of all fleets, sorted: each folder is asked whether it is one's. Raises CloudError."""
        folders = await self.folders()
        described = await asyncio.gather(*(self._objects.get(config_key(name)) for name in folders))
        return [name for name, stored in zip(folders, described, strict=True) if stored is not None]

    async def get(self, name: str) -> Fleet:
        """Return the fleet.

        Raises:
            UnknownFleet: there is none of this name.
            CorruptDocument: its description cannot be read.
            CloudError: S3 did not answer.
        """
        stored = await self._objects.get(config_key(name)) if _is_name(name) else None
        if stored is None:
            raise UnknownFleet(name)
        try:
            fleet = Fleet.model_validate_json(stored.body)
        except ValidationError as error:
            raise CorruptDocument(config_key(name), str(error)) from error
        if fleet.fleet != name:
            raise CorruptDocument(config_key(name), f"it describes another fleet, {fleet.fleet!r}")
        return fleet


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None
