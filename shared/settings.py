"""What a process is told by its environment: ``AUTOPROVISIONER_*``. The ``AWS_*`` variables are botocore's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PREFIX = "AUTOPROVISIONER_"


class SettingsError(Exception):
    """The environment lacks something or has it wrong; the message is one sentence for whoever starts the process."""


class Settings(BaseModel):
    """Settings that are read from the environment, each from the variable of its name."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def read(cls) -> Self:
        """Read the environment.

        Raises:
            SettingsError: with one sentence that names every variable that is missing or wrong.
        """
        told = {field: os.environ.get(PREFIX + field.upper()) for field in cls.model_fields}
        try:
            return cls.model_validate({field: value for field, value in told.items() if value is not None})
        except ValidationError as error:
            raise SettingsError(_sentence(error)) from error


class ServiceSettings(Settings):
    """The settings of one service."""

    bucket: str = Field(default="autoprovisioner", min_length=3, max_length=63)
    queue_url: str = Field(pattern=r"^https?://")
    dead_letter_url: str = Field(pattern=r"^https?://")
    topic_prefix: str = Field(pattern=r"^arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:.+$")
    log_format: Literal["json", "console"] = "json"
    heartbeat_file: Path | None = None


def _sentence(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    names = {PREFIX + str(problem["loc"][0]).upper(): problem for problem in problems}
    missing = [name for name, problem in names.items() if problem["type"] == "missing"]
    wrong = [f"{name} is wrong: {problem['msg']}" for name, problem in names.items() if name not in missing]
    return "; ".join(([f"set {', '.join(missing)}"] if missing else []) + wrong)
