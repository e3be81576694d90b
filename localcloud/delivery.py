"""Delivery to the queues and topics that moto holds, by ARN."""

from __future__ import annotations

import logging
from typing import Protocol

from moto.core.exceptions import ServiceException
from moto.sns.models import sns_backends
from moto.sqs.models import sqs_backends
from werkzeug.exceptions import HTTPException

from localcloud.account import ACCOUNT

log = logging.getLogger("localcloud")


class Deliver(Protocol):
    """How a body gets to an SQS queue or an SNS topic. A missing target is logged: nobody waits for an answer."""

    def __call__(self, arn: str, body: str, *, subject: str | None = None, group: str | None = None) -> None:
        """Send it."""
        ...


def deliver(arn: str, body: str, *, subject: str | None = None, group: str | None = None) -> None:
    """Send a body to an SQS queue or an SNS topic. A missing target is logged: nobody waits for an answer."""
    service, region, name = arn.split(":")[2], arn.split(":")[3], arn.split(":")[5]
    try:
        if service == "sqs":
            sqs_backends[ACCOUNT][region].send_message(name, body, group_id=group)
        elif service == "sns":
            sns_backends[ACCOUNT][region].get_topic(arn).publish(body, subject=subject)
        else:
            log.error("nothing delivers to %s: only queues and topics are targets here", arn)
    except (ServiceException, HTTPException) as refusal:
        log.warning("could not deliver to %s: %s", arn, refusal)
