"""YAML with the line of everything in it, so that a mistake can be blamed on what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

Place = tuple[str | int, ...]
"""Where a field is: ``("plan", 2, "timeout")``."""


class FleetError(Exception):
    """A description that can not be used: one sentence a mistake, each with file, line, field and mend."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


@dataclass
class Source:
    """A description as it was written: plain values, the line of each field, and the mistakes found so far."""

    file: Path
    lines: dict[Place, int] = field(default_factory=dict)
    mistakes: list[tuple[int, str]] = field(default_factory=list)

    def blame(self, path: Place, text: str) -> None:
        """Note a mistake at a field, or at the nearest thing around it that was written."""
        self.blame_line(self.line(path), f"{dotted(path)} {text}" if path else text)

    def blame_line(self, line: int, text: str) -> None:
        """Note a mistake at a line."""
        self.mistakes.append((line, f"{self.file}:{line}: {text}" + ("" if text.endswith("?") else ".")))

    def line(self, path: Place) -> int:
        """Return the line of the field, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def raise_if_wrong(self) -> None:
        """Raise what was noted, in the order of the file."""
        if self.mistakes:
            raise FleetError([text for _, text in sorted(self.mistakes, key=lambda mistake: mistake[0])])


def read_text(path: Path) -> str:
    """Return a description's text. FleetError when there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FleetError([f"{path}: the fleet description can not be read: {error.strerror}."]) from error
    if len(content) > MAX_BYTES:
        raise FleetError([f"{path}: is larger than {MAX_BYTES} bytes, so it is no fleet description."])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FleetError([f"{path}:{line}: is not UTF-8 text; save the file as UTF-8."]) from error


def read_values(source: Source, text: str) -> Any:
    """Return the document's plain values; lines and mistakes are noted in ``source``."""
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return None if node is None else _Walk(source, loader).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        source.blame_line(mark.line + 1 if mark else 1, f"is not YAML: {_yaml_problem(error)}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        source.blame_line(line, "is not YAML: has a character that is not allowed there; delete it")
    except RecursionError:
        source.blame_line(1, f"is more than {MAX_DEPTH} levels deep; no fleet description is")
    except (ValueError, OverflowError) as error:
        # An escape for a character that there is not, such as \UFFFFFFFF, comes through as chr() left it.
        source.blame_line(1, f"is not YAML: {error}")
    finally:
        if loader is not None:
            loader.dispose()
    return None


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    """Return what PyYAML says in one line, with a hint where its own words mislead."""
    problem = (error.problem or error.context or "it can not be parsed").replace("\n", " ")
    hints = {
        "\\t": "indent with spaces, not with tabs",
        "mapping values are not allowed": "put text that holds a colon in quotes",
        "expected <block end>": "indent this line like the ones it belongs to",
        "expected ',' or ']'": "close the list with ]",
        "expected ',' or '}'": "close the mapping with }",
        "could not find expected ':'": "write this line as name: value",
        "but found another document": "keep one fleet in a file",
    }
    hint = next((hint for words, hint in hints.items() if words in problem), "")
    return f"{problem}; {hint}" if hint else problem


@dataclass
class _Walk:
    """Turns YAML nodes into values. Scalars become what YAML says they are, dates excepted: those stay text."""

    source: Source
    loader: yaml.SafeLoader
    seen: set[int] = field(default_factory=set)

    def value(self, node: Node, path: Place) -> Any:
        """Return a node's value."""
        line = node.start_mark.line + 1
        self.source.lines.setdefault(path, line)
        if id(node) in self.seen:
            self.source.blame_line(line, f"{dotted(path)} repeats a part by an alias; write it out")
            return None
        self.seen.add(id(node))
        if len(path) > MAX_DEPTH:
            self.source.blame_line(line, f"is more than {MAX_DEPTH} levels deep; no fleet description is")
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, number)) for number, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: MappingNode, path: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                self.source.blame_line(line, f"{dotted(path)} has a field whose name is not plain text; write a name")
                continue
            here = (*path, key.value)
            if key.value in values:
                first = self.source.lines[here]
                self.source.blame_line(line, f"{dotted(here)} is given twice, first on line {first}; remove one")
                continue
            self.source.lines[here] = line
            values[key.value] = self.value(value, here)
        return values

    def _scalar(self, node: Node, path: Place) -> Any:
        if node.tag.endswith(":timestamp"):
            return node.value
        try:
            value = self.loader.construct_object(node)
            str(value).encode()  # half of a surrogate pair is text that cannot be stored
        except (yaml.constructor.ConstructorError, ValueError):
            value = b""
        if value is None or isinstance(value, str | int | float):
            return value
        self.source.blame(path, f"is no plain value: {node.value[:40]!r}; put text in quotes")
        return None


def dotted(path: Place) -> str:
    """Return ``plan[2].timeout`` for ("plan", 2, "timeout")."""
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return words.removeprefix(".") or "the file"
