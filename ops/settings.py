"""What the command line is told by the environment: the same variables as a service, without a queue of its own."""

from __future__ import annotations

from pydantic import Field

from shared.settings import Settings


class OperatorSettings(Settings):
    """Where the documents and topics are. AWS_* variables are botocore's."""

    bucket: str = Field(default="autoprovisioner", min_length=3, max_length=63)
    topic_prefix: str = ""

    @property
    def queue_url(self) -> None:
        """None: the command line consumes no queue."""

    @property
    def dead_letter_url(self) -> None:
        """None, likewise."""
