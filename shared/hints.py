"""Commands for people to type, with the AWS CLI alone. Pure."""

from __future__ import annotations

from shared.names import topic_name

BUCKET = "s3://${AUTOPROVISIONER_BUCKET:-autoprovisioner}"


def show_command(key: str) -> str:
    """Return the command that shows a document. Pure."""
    return f"aws s3 cp {BUCKET}/{key} -"


def list_command(prefix: str) -> str:
    """Return the command that lists the documents with this prefix. Pure."""
    return f"aws s3 ls {BUCKET}/{prefix}"


def delete_command(key: str) -> str:
    """Return the command that deletes a document. Pure."""
    return f"aws s3 rm {BUCKET}/{key}"


def request_command(fleet: str, request: str) -> str:
    """Return the command that asks for something of a fleet by a message of this type. Pure."""
    topic = f"Topics[?ends_with(TopicArn, ':{topic_name('commands')}')].TopicArn"
    body = f'{{"type":"{request}","fleet":"{fleet}"}}'
    return f"aws sns publish --topic-arn $(aws sns list-topics --query \"{topic}\" --output text) --message '{body}'"
