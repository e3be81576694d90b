"""Writes releases of the example's two components: ``python -m examples.monolith OUT --seed 1 --version 2``.

``OUT/libraries`` is what the product stands on, ``OUT/monolith`` the product. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from examples import texts

LIBRARIES_VERSION = "2026.1"
"""The libraries have one release only."""

APP = Path(__file__).parent / "web" / "app"
"""The server's own code, which is part of the monolith and of this repository."""

_PACKAGES = 130
_MODULES, _MODULE_SIZE = 60, 7_000
_DATA, _DATA_SIZE = 18, 18_000
_AREAS = len(texts.NOUNS)
_MIGRATIONS = 300
_BLOB_SIZE = 2_500_000
_PARALLEL_FROM = 0.2
"""Below this scale starting more processes takes longer than the work."""

_Work = TypeVar("_Work")
Render = Callable[[int, str, int], str]


class AlreadyThere(Exception):
    """The folder that a component should be written to exists."""


@dataclass(frozen=True)
class Kind:
    """One kind of file of which every area of the product has ``count``, of about ``size`` characters each."""

    folder: str
    name: str
    count: int
    size: int
    render: Render


_SOURCES = Kind("src/product", "{area}_{number:03d}.py", 100, 8_000, texts.python_module)
_KINDS = (
    Kind("assets", "{area}-{number:03d}.css", 12, 12_000, texts.stylesheet),
    Kind("assets", "{area}-{number:03d}.js", 18, 18_000, texts.javascript),
    Kind("assets", "{area}-{number:03d}.svg", 15, 12_000, texts.drawing),
    Kind("docs", "{number:03d}.md", 75, 10_000, texts.prose),
    Kind("templates", "{number:02d}.html", 12, 3_000, texts.page),
)


@dataclass(frozen=True)
class Edition:
    """Which release of the monolith to write.

    Version 1 is the base; each version after it changes ``change`` of the component's files, all of them under src/.
    """

    seed: int = 1
    version: int = 1
    scale: float = 1.0
    change: float = 0.02
    broken: bool = False

    @property
    def areas(self) -> Sequence[str]:
        """The parts that the product is divided into."""
        return texts.NOUNS[: _scaled(_AREAS, self.scale)]

    @property
    def migrations(self) -> int:
        """How many steps the database's schema has."""
        return _scaled(_MIGRATIONS, self.scale)


def write_libraries(out: Path, *, seed: int = 1, scale: float = 1.0) -> None:
    """Write ``out/libraries``. AlreadyThere when it exists."""
    root = _fresh(out / "libraries")
    _write(root, "release.json", _release("libraries", LIBRARIES_VERSION))
    _each(partial(_write_package, root, seed), _package_names(scale), scale)


def write_monolith(out: Path, edition: Edition) -> None:
    """Write ``out/monolith``. AlreadyThere when it exists."""
    root = _fresh(out / "monolith")
    _write(root, "src/release.json", _release("monolith", str(edition.version)))
    for path, text in _product_root(edition):
        _write(root, path, text)
    for source in _app_files():
        _write(root, f"app/{source.name}", source.read_text())
    for number in range(edition.migrations):
        _write(root, _migration_path(number), texts.migration(edition.seed, number))
    history = _history(edition)
    work = [(area, {path: history[path] for path in _source_paths(area) if path in history}) for area in edition.areas]
    _each(partial(_write_area, root, edition.seed), work, edition.scale)
    if edition.broken:
        module = root / broken_module(edition)
        module.write_text(module.read_text() + texts.broken_function())


def broken_module(edition: Edition) -> str:
    """Return the path of the module that does not compile when the edition is a broken one."""
    return texts.stream(edition.seed, "broken", edition.version).choice(_sources(edition))


def _history(edition: Edition) -> dict[str, list[int]]:
    """Return for each module that ever changed the versions in which it did."""
    # src/release.json changes with every version, so it is one of the changed files.
    count = round(edition.change * _monolith_files(edition)) - 1
    history: dict[str, list[int]] = {}
    for version in range(2, edition.version + 1):
        for path in texts.stream(edition.seed, "change", version).sample(_sources(edition), max(count, 0)):
            history.setdefault(path, []).append(version)
    return history


def _monolith_files(edition: Edition) -> int:
    an_area = _SOURCES.count + 1 + sum(kind.count for kind in _KINDS) + 1
    others = 1 + len(_product_root(edition)) + len(_app_files()) + edition.migrations
    return others + an_area * len(edition.areas)


def _sources(edition: Edition) -> list[str]:
    return [path for area in edition.areas for path in _source_paths(area)]


def _source_paths(area: str) -> list[str]:
    return list(_paths(_SOURCES, area))


def _paths(kind: Kind, area: str) -> Iterator[str]:
    for number in range(kind.count):
        yield f"{kind.folder}/{_package(area)}/{kind.name.format(area=area, number=number)}"


def _package(area: str) -> str:
    return f"{area}s"  # some areas are Python's own words: return


def _product_root(edition: Edition) -> list[tuple[str, str]]:
    library = _package_names(edition.scale)[0]
    areas = ", ".join(repr(_package(area)) for area in edition.areas)
    return [("src/product/__init__.py", f'"""The product."""\n\nimport {library}\n\nAREAS = [{areas}]\n')]


def _app_files() -> list[Path]:
    return sorted(APP.glob("*.py"))


def _migration_path(number: int) -> str:
    return f"migrations/{number:04d}.sql"


def _package_names(scale: float) -> list[str]:
    return [f"{texts.NOUNS[number % _AREAS]}_{number:03d}" for number in range(_scaled(_PACKAGES, scale))]


def _write_package(root: Path, seed: int, name: str) -> None:
    """Write one library: modules, data files, and RECORD with the digest of each."""
    files = {f"{name}/__init__.py": f'"""Vendored: {name}."""\n\nVERSION = "{seed}.{len(name)}"\n'}
    for number in range(_MODULES):
        path = f"{name}/module_{number:02d}.py"
        imports = ("json", "math") if number == 0 else (f"{name}.module_{number - 1:02d}",)
        files[path] = texts.python_module(seed, path, _MODULE_SIZE, imports)
    for number in range(_DATA):
        path = f"{name}/data/table_{number:02d}.txt"
        files[path] = texts.prose(seed, path, _DATA_SIZE)
    files[f"{name}/RECORD"] = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in sorted(files.items()))
    for path, text in files.items():
        _write(root, path, text)


def _write_area(root: Path, seed: int, work: tuple[str, Mapping[str, Sequence[int]]]) -> None:
    """Write one area of the monolith; the mapping says which modules changed, and in which versions."""
    area, history = work
    _write(root, f"src/product/{_package(area)}/__init__.py", f'"""All about each {area}."""\n')
    for number, path in enumerate(_paths(_SOURCES, area)):
        imports = ["json"] if number == 0 else [f"product.{_package(area)}.{area}_{number - 1:03d}"]
        text = texts.python_module(seed, path, _SOURCES.size, imports)
        _write(root, path, text + "".join(texts.python_edit(seed, path, version) for version in history.get(path, ())))
    for kind in _KINDS:
        for path in _paths(kind, area):
            _write(root, path, kind.render(seed, path, kind.size))
    blob = f"assets/{_package(area)}/{area}.bin"
    (root / blob).write_bytes(texts.stream(seed, blob).randbytes(_BLOB_SIZE))


def _each(do: Callable[[_Work], None], work: Iterable[_Work], scale: float) -> None:
    """Do all the work, on every core when there is enough of it."""
    items = list(work)
    if scale < _PARALLEL_FROM:
        for item in items:
            do(item)
        return
    # Spawned, since forking a program that has threads is unsafe.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(do, items, chunksize=4):
            pass


def _write(root: Path, path: str, text: str) -> None:
    target = root / path
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True)
    target.write_bytes(text.encode())


def _fresh(root: Path) -> Path:
    try:
        root.mkdir(parents=True)
    except FileExistsError:
        raise AlreadyThere(f"{root} is already there; name another folder, or delete it first") from None
    return root


def _release(component: str, version: str) -> str:
    return json.dumps({"component": component, "version": version}) + "\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _scaled(count: int, scale: float) -> int:
    return max(1, round(count * scale))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.monolith", description=__doc__)
    parser.add_argument("out", type=Path, help="folder in which libraries/ and monolith/ are made")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--version", type=int, default=1, help="1 is the base, each version after it a change to it")
    parser.add_argument("--scale", type=float, default=1.0, help="1.0 is about 300 MB in 20,000 files")
    parser.add_argument("--change", type=float, default=0.02, help="part of the files that each version changes")
    parser.add_argument("--broken", action="store_true", help="with one module that does not compile")
    parser.add_argument("--only", choices=("libraries", "monolith"), help="write one component")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write what the command line asks for; return the exit code."""
    asked = _arguments(argv)
    edition = Edition(asked.seed, asked.version, asked.scale, asked.change, asked.broken)
    try:
        if asked.only != "monolith":
            write_libraries(asked.out, seed=asked.seed, scale=asked.scale)
        if asked.only != "libraries":
            write_monolith(asked.out, edition)
    except (AlreadyThere, OSError) as mistake:
        print(mistake, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
