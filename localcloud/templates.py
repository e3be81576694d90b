"""Launch templates: what moto leaves out of them."""

from __future__ import annotations

from typing import Any

from moto.ec2.responses.launch_templates import LaunchTemplates

from localcloud.overlay import Method, wrap
from localcloud.tokens import once_per_token

_ALL = 1000
"""moto shows the first 15 and no NextToken; AWS pages. Here everything comes on one page."""


def install() -> None:
    """Make versions inherit, tokens count, and listings complete."""
    wrap(LaunchTemplates, "create_launch_template_version", _inheriting)
    wrap(LaunchTemplates, "create_launch_template_version", once_per_token)
    wrap(LaunchTemplates, "describe_launch_template_versions", _complete)
    wrap(LaunchTemplates, "describe_launch_templates", _complete)


def _inheriting(original: Method) -> Method:
    def create_launch_template_version(response: Any) -> Any:
        """A version begins with what is in SourceVersion."""
        source = response._get_param("SourceVersion")
        if source:
            name = response._get_param("LaunchTemplateName")
            backend = response.ec2_backend
            template = (
                backend.get_launch_template_by_name(name)
                if name
                else backend.get_launch_template(response._get_param("LaunchTemplateId"))
            )
            changes = response._get_param("LaunchTemplateData", {})
            response.params["LaunchTemplateData"] = {**template.get_version(source).data, **changes}
        return original(response)

    return create_launch_template_version


def _complete(original: Method) -> Method:
    def describe(response: Any) -> Any:
        response.params.setdefault("MaxResults", _ALL)
        return original(response)

    return describe
