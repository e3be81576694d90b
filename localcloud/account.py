"""The one account and region in which the local cloud has machines, groups and events of its own."""

ACCOUNT = "000000000000"
REGION = "us-east-1"


def arn(service: str, resource: str) -> str:
    """Return the name of a resource of ours."""
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"
