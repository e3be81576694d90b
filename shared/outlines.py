"""What planning needs of a release: not its files, only a digest of those that each step reads. Pure.

A manifest tells of tens of thousands of files. Here little is read of each, and nothing of its size outlives the
reading: services plan for several servers at once in little memory.

Globs are matched against whole paths: ``*`` and ``?`` stay within one name, ``**`` crosses directories, all else stands
for itself. A glob that matches a directory takes in everything below it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict
from pydantic.dataclasses import dataclass as checked

from shared.ids import ComponentName, Version

Globs = tuple[str, ...]
"""What a step reads of a component: the paths that match one of them."""


@dataclass(frozen=True)
class Inputs:
    """What a step reads of a release."""

    digest: str
    """SHA-256 in hex over path, kind, mode, content and target of each entry, in the manifest's order."""
    files: int
    """How many of the entries are no directories."""


@dataclass(frozen=True)
class Outline:
    """A release as planning sees it. ``digest`` is the SHA-256 of its stored manifest, ``packs`` are digests too."""

    component: str
    version: str
    digest: str
    packs: tuple[str, ...]
    inputs: Mapping[Globs, Inputs]
    """By the globs that were asked about."""


@checked(slots=True)
class _Entry:
    path: str
    kind: Literal["file", "dir", "link"] = "file"
    mode: int = 0o644
    sha256: str = ""
    target: str = ""


class _Pack(BaseModel):
    sha256: str


class _Manifest(BaseModel):
    """The part of ``shared.manifests.Manifest`` that counts here; what else a manifest holds is skipped."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    form: Literal[1]
    component: ComponentName
    version: Version
    entries: list[_Entry]
    packs: list[_Pack] = []


def outline(stored: bytes, asked: Iterable[Globs]) -> Outline:
    """Return a release's outline from its stored manifest. Pure.

    Raises:
        pydantic.ValidationError: the manifest is damaged, or of a newer form.
    """
    manifest = _Manifest.model_validate_json(stored)
    return Outline(
        component=manifest.component,
        version=manifest.version,
        digest=hashlib.sha256(stored).hexdigest(),
        packs=tuple(pack.sha256 for pack in manifest.packs),
        inputs={globs: _inputs(manifest.entries, globs) for globs in asked},
    )


def _inputs(entries: Iterable[_Entry], globs: Globs) -> Inputs:
    pattern = re.compile("|".join(map(_regex, globs)) or r"(?!)", re.DOTALL)
    digest, files = hashlib.sha256(), 0
    for entry in entries:
        if pattern.fullmatch(entry.path):
            digest.update(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
            files += entry.kind != "dir"
    return Inputs(digest.hexdigest(), files)


def _regex(glob: str) -> str:
    """Translate a glob. ``**/`` also matches nothing, so ``a/**/b`` matches ``a/b``."""
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|.", glob.rstrip("/"), re.DOTALL)
    return f"(?:{''.join(special.get(token) or re.escape(token) for token in tokens)})(?:/.*)?"
