"""What a service is told by its environment: ``AUTOPROVISIONER_*``. The ``AWS_*`` variables are botocore's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "AUTOPROVISIONER_"


class SettingsError(Exception):
    """The environment lacks something or has it wrong; the message is one sentence for whoever starts the service."""


class ServiceSettings(BaseSettings):
    """The settings of one service."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    bucket: str = Field(default="autoprovisioner", min_length=3, max_length=63)
    queue_url: str = Field(pattern=r"^https?://")
    dead_letter_url: str = Field(pattern=r"^https?://")
    topic_prefix: str = Field(pattern=r"^arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:.+$")
    log_format: Literal["json", "console"] = "json"
    heartbeat_file: Path | None = None


def read_settings() -> ServiceSettings:
    """Read the environment.

    Raises:
        SettingsError: with one sentence that names every variable that is missing or wrong.
    """
    try:
        return ServiceSettings()
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    names = {PREFIX + str(problem["loc"][0]).upper(): problem for problem in problems}
    missing = [name for name, problem in names.items() if problem["type"] == "missing"]
    wrong = [f"{name} is wrong: {problem['msg']}" for name, problem in names.items() if name not in missing]
    return "; ".join(([f"set {', '.join(missing)}"] if missing else []) + wrong)
