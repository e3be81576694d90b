#!/usr/bin/env python3
"""Compile the product and its server, after checking that every import of its own or of a library can be met.

Reads srv/monolith/src and srv/monolith/app, writes srv/build/src and srv/build/app. Only modules whose source changed
are compiled. When one does not compile, nothing is put in place.
"""

import ast
import importlib.util
import json
import marshal
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(os.environ.get("SERVER_ROOT") or "/")
MONOLITH = ROOT / "srv/monolith"
BUILD = ROOT / "srv/build"
LIBRARIES = ROOT / "opt/build/libraries/libraries.json"
CHECKED_NEVER = (1).to_bytes(4, "little")  # a hash-based .pyc whose source is not looked for (PEP 552)
SHOWN = 10


def write(path: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def header(source: bytes) -> bytes:
    """Return the first 16 bytes of the .pyc of this source."""
    return importlib.util.MAGIC_NUMBER + CHECKED_NEVER + importlib.util.source_hash(source)


def is_current(target: Path, source: bytes) -> bool:
    """Whether the .pyc was made from this source by this Python."""
    try:
        with target.open("rb") as existing:
            return existing.read(16) == header(source)
    except FileNotFoundError:
        return False


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of everything that a module imports, also inside its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module


def unmet(name: str, product: set[str], libraries: set[str]) -> bool:
    """Whether an import can not be met: by the product, by a library, or by Python itself."""
    top = name.partition(".")[0]
    if top == "product":
        return name not in product
    return top not in libraries and top not in sys.stdlib_module_names


def modules(sources: list[str]) -> set[str]:
    """Return the names under which the sources below src/ are imported."""
    names = (path.removeprefix("src/").removesuffix(".py").replace("/", ".") for path in sources)
    return {name.removesuffix(".__init__") for name in names}


def checked(path: str, source: bytes, product: set[str], libraries: set[str]) -> tuple[bytes, list[str]]:
    """Return a module's .pyc and what is wrong with it; when something is, the .pyc is empty."""
    try:
        tree = ast.parse(source, path)
        code = compile(tree, path, "exec", dont_inherit=True)
    except SyntaxError as mistake:
        return b"", [f"{path}:{mistake.lineno}: {mistake.msg}: {(mistake.text or '').strip()}"]
    missing = [(line, name) for line, name in imports(tree) if unmet(name, product, libraries)]
    if missing:
        return b"", [f"{path}:{line}: there is no module {name}" for line, name in missing]
    return header(source) + marshal.dumps(code), []


def refuse(mistakes: list[str]) -> None:
    """Say what is wrong and exit."""
    for mistake in mistakes[:SHOWN]:
        print(mistake, file=sys.stderr)
    count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
    sys.exit(f"compile: {count} in the release's modules; nothing was put in place")


def remove_left_overs(sources: list[str]) -> None:
    """Remove what was compiled from modules that are gone."""
    wanted = {BUILD / f"{path}c" for path in sources}
    for folder in ("src", "app"):
        for left_over in set((BUILD / folder).rglob("*.py*")) - wanted:
            left_over.unlink()


def main() -> None:
    """Compile what changed, put it in place, and the release's name last."""
    sources = sorted(
        str(path.relative_to(MONOLITH)) for part in ("src", "app") for path in (MONOLITH / part).rglob("*.py")
    )
    product, libraries = modules(sources), set(json.loads(LIBRARIES.read_text())["packages"])
    results: dict[str, bytes] = {}
    mistakes: list[str] = []
    for path in sources:
        source = (MONOLITH / path).read_bytes()
        if not is_current(BUILD / f"{path}c", source):
            results[path], wrong = checked(path, source, product, libraries)
            mistakes += wrong
    if mistakes:
        refuse(mistakes)
    for path, content in results.items():
        write(BUILD / f"{path}c", content)
    remove_left_overs(sources)
    write(BUILD / "release.json", (MONOLITH / "src/release.json").read_bytes())
    print(f"{len(results)} of {len(sources)} modules compiled")


if __name__ == "__main__":
    main()
