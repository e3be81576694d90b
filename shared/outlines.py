"""What planning needs of a release: not its files, only a digest of those that each step reads. Pure.

A manifest tells of tens of thousands of files. Here little is read of each, and nothing of its size outlives the
reading: services plan for several servers at once in little memory.

Globs are matched against whole paths: ``*`` and ``?`` stay within one name, ``**`` crosses directories, all else stands
for itself. A glob that matches a directory takes in everything below it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from json import JSONDecoder
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter
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
    """What counts here of ``shared.manifests.Manifest``, but for the entries; what else it holds is skipped."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    form: Literal[1]
    component: ComponentName
    version: Version
    packs: list[_Pack] = []


_ENTRY = TypeAdapter(_Entry)
_JSON = JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


def outline(stored: bytes, asked: Iterable[Globs]) -> Outline:
    """Return a release's outline from its stored manifest. Pure.

    Raises:
        ValueError: the manifest is damaged, or of a newer form.
    """
    readers = {globs: _Reader(globs) for globs in asked}
    rest: dict[str, Any] = {}
    for name, value in _members(stored.decode(), "entries"):
        if name != "entries":
            rest[name] = value
            continue
        entry = _ENTRY.validate_python(value)
        for reader in readers.values():
            reader.read(entry)
    manifest = _Manifest.model_validate(rest)
    return Outline(
        component=manifest.component,
        version=manifest.version,
        digest=hashlib.sha256(stored).hexdigest(),
        packs=tuple(pack.sha256 for pack in manifest.packs),
        inputs={globs: reader.inputs() for globs, reader in readers.items()},
    )


class _Reader:
    """Reads what matches, one entry after the other."""

    def __init__(self, globs: Globs) -> None:
        self._pattern = re.compile("|".join(map(_regex, globs)) or r"(?!)", re.DOTALL)
        self._digest = hashlib.sha256()
        self._files = 0

    def read(self, entry: _Entry) -> None:
        if self._pattern.fullmatch(entry.path):
            self._digest.update(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
            self._files += entry.kind != "dir"

    def inputs(self) -> Inputs:
        return Inputs(self._digest.hexdigest(), self._files)


def _members(text: str, listed: str) -> Iterator[tuple[str, Any]]:
    """Yield a JSON object's members; of the list named ``listed``, each item as if it were a member of that name.

    Whole, the list would take five times the text's memory, and the process would keep much of it.

    Raises:
        ValueError: it is no JSON object, or ``listed`` is no list or not there.
    """
    at, found = _past(text, 0, "{"), False
    while True:
        name, at = _JSON.raw_decode(text, at)
        at = _past(text, at, ":")
        if name == listed:
            found = True
            at = yield from _items(text, at, name)
        else:
            value, at = _JSON.raw_decode(text, at)
            yield name, value
        at = _space(text, at)
        if text[at : at + 1] == "}":
            break
        at = _past(text, at, ",")
    if not found or _space(text, at + 1) != len(text):
        raise ValueError(f"no {listed}, or more after the end")


def _items(text: str, at: int, name: str) -> Generator[tuple[str, Any], None, int]:
    """Yield a list's items, and return where the list ends."""
    at = _past(text, at, "[")
    if text[at : at + 1] == "]":
        return at + 1
    while True:
        value, at = _JSON.raw_decode(text, at)
        yield name, value
        at = _space(text, at)
        if text[at : at + 1] == "]":
            return at + 1
        at = _past(text, at, ",")


def _past(text: str, at: int, sign: str) -> int:
    """Return where what follows the sign begins."""
    at = _space(text, at)
    if text[at : at + 1] != sign:
        raise ValueError(f"{sign} is missing at character {at}")
    return _space(text, at + 1)


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _regex(glob: str) -> str:
    """Translate a glob. ``**/`` also matches nothing, so ``a/**/b`` matches ``a/b``."""
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|.", glob.rstrip("/"), re.DOTALL)
    return f"(?:{''.join(special.get(token) or re.escape(token) for token in tokens)})(?:/.*)?"
