"""AWS for the services: the adapters behind the ports in ``shared.cloud``, and the only importer of aiobotocore."""

from shared.aws.session import Cloud, CloudSettings, open_cloud

__all__ = ["Cloud", "CloudSettings", "open_cloud"]
