"""Reading ``messaging.yaml`` as CloudFormation does, as far as this template goes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).with_name("messaging.yaml")

_ARNS = {
    "AWS::SQS::Queue": ("sqs", "{QueueName}"),
    "AWS::SNS::Topic": ("sns", "{TopicName}"),
    "AWS::Events::Rule": ("events", "rule/{Name}"),
}


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short tags: ``!Ref X`` is ``{"Ref": "X"}``."""


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    assert isinstance(node, yaml.ScalarNode), f"!{suffix} takes a plain text here"
    text = loader.construct_scalar(node)
    if suffix == "GetAtt":
        return {"Fn::GetAtt": text.split(".", 1)}
    return {suffix if suffix == "Ref" else f"Fn::{suffix}": text}


_Loader.add_multi_constructor("!", _tagged)


def load_template(text: str) -> dict[str, Any]:
    """Return the template with its functions in their long form. Pure."""
    template: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader with three more tags
    return template


@dataclass(frozen=True)
class Place:
    """Where a stack is."""

    partition: str
    region: str
    account: str
    bucket: str

    @property
    def _values(self) -> dict[str, str]:
        return {
            "AWS::Partition": self.partition,
            "AWS::Region": self.region,
            "AWS::AccountId": self.account,
            "Bucket": self.bucket,
        }

    def resolve(self, value: Any, resources: Mapping[str, Any]) -> Any:
        """Return a property with the functions replaced by what they stand for. Pure.

        A queue's ``Ref`` becomes its name, where CloudFormation has its URL.
        """
        match value:
            case {"Ref": str(name)}:
                return self._values.get(name) or self._reference(resources[name])
            case {"Fn::GetAtt": [str(name), str(attribute)]}:
                found = resources[name]
                return self._arn(found) if attribute == "Arn" else found["Properties"][attribute]
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{([^}]+)\}", lambda found: self._values[found[1]], text)
            case dict():
                return {key: self.resolve(part, resources) for key, part in value.items()}
            case list():
                return [self.resolve(part, resources) for part in value]
        return value

    def _reference(self, resource: Mapping[str, Any]) -> str:
        if resource["Type"] == "AWS::SQS::Queue":
            return str(resource["Properties"]["QueueName"])
        return self._arn(resource)

    def _arn(self, resource: Mapping[str, Any]) -> str:
        service, name = _ARNS[resource["Type"]]
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{name.format(**resource['Properties'])}"
