"""docker-compose.yml as the tests read it: with its variables filled in, in a model of those parts that we use.

What the fields mean: the Compose Specification, compose-spec.io.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

REPOSITORY = Path(__file__).parents[1]
COMPOSE_FILE = REPOSITORY / "docker-compose.yml"

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?::-(?P<default>[^}]*))?\}")

Duration = Annotated[str, StringConstraints(pattern=r"^(\d+h)?(\d+m)?(\d+s)?$", min_length=2)]
Port = Annotated[str, StringConstraints(pattern=r"^(\d+\.\d+\.\d+\.\d+:)?\d+:\d+$")]
Command = Annotated[tuple[str, ...], Field(min_length=1)]
Condition = Literal["service_started", "service_healthy", "service_completed_successfully"]
Variables = Annotated[Mapping[str, str | None], BeforeValidator(lambda given: given or {})]
"""YAML's numbers and truths are refused: Compose would write them in its own way."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Build(_Part):
    """How an image is built."""

    context: str
    target: str


class Healthcheck(_Part):
    """When a container counts as healthy."""

    test: Annotated[Command, Field(min_length=2)]
    interval: Duration
    timeout: Duration
    retries: int = Field(ge=1)
    start_period: Duration | None = None


class Dependency(_Part):
    """What another service must be before this one starts."""

    condition: Condition


class Service(_Part):
    """One service."""

    image: str
    build: Build | None = None
    command: Command | None = None
    environment: Variables = Field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    volumes: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    init: bool = False
    read_only: bool = False
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    network_mode: str | None = None
    restart: Literal["no", "always", "on-failure", "unless-stopped"] = "no"
    stop_grace_period: Duration = "10s"
    healthcheck: Healthcheck | None = None
    depends_on: Mapping[str, Dependency] = Field(default_factory=dict)

    @property
    def own_folders(self) -> tuple[str, ...]:
        """Where it may write."""
        return (*self.tmpfs, *(volume.split(":")[1] for volume in self.volumes))

    def variables(self, host: Mapping[str, str]) -> dict[str, str]:
        """Return its environment; a variable without a value is the host's, if that has it."""
        passed = {name: host.get(name) if value is None else value for name, value in self.environment.items()}
        return {name: value for name, value in passed.items() if value is not None}


class ComposeFile(_Part):
    """The whole file, without its extensions (``x-``), which are merged into the services by then."""

    name: str
    services: Mapping[str, Service]
    volumes: Mapping[str, None]


def compose_file_content(host: Mapping[str, str]) -> dict[str, Any]:
    """Read the file, with variables filled in as from this environment; KeyError: one has neither value nor default."""
    content: dict[str, Any] = _filled(yaml.safe_load(COMPOSE_FILE.read_text()), host)
    return content


def read_compose_file(host: Mapping[str, str]) -> ComposeFile:
    """Read the file, with variables filled in as from this environment.

    Raises:
        ValidationError: it has something that the model does not know.
        KeyError: a variable has neither value nor default.
    """
    content = compose_file_content(host)
    return ComposeFile.model_validate({name: part for name, part in content.items() if not name.startswith("x-")})


def seconds(duration: str) -> int:
    """Return a duration in seconds."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def _filled(part: Any, host: Mapping[str, str]) -> Any:
    if isinstance(part, dict):
        return {name: _filled(inner, host) for name, inner in part.items()}
    if isinstance(part, list):
        return [_filled(inner, host) for inner in part]
    if not isinstance(part, str):
        return part

    def value(found: re.Match[str]) -> str:
        given = host.get(found["name"], "")
        return given or (host[found["name"]] if found["default"] is None else found["default"])

    return _VARIABLE.sub(value, part)
