"""What the command line is told by the environment: the same variables as a service, without a queue of its own."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import PREFIX


class OperatorSettings(BaseSettings):
    """Where the documents and topics are. AWS_* variables are botocore's."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    bucket: str = Field(default="autoprovisioner", min_length=3, max_length=63)
    topic_prefix: str = ""
    queue_url: None = None
    dead_letter_url: None = None
