#!/usr/bin/env python3
"""Check every vendored library against its RECORD and compile it into one archive, from which Python imports it.

Reads opt/libraries, writes opt/build/libraries. Safe to run again: an archive that is up to date is left alone, and
each appears whole or not at all.
"""

import hashlib
import importlib.util
import io
import json
import marshal
import os
import sys
import zipfile
from pathlib import Path

ROOT = Path(os.environ.get("SERVER_ROOT") or "/")
LIBRARIES = ROOT / "opt/libraries"
BUILD = ROOT / "opt/build/libraries"
CHECKED_NEVER = (1).to_bytes(4, "little")  # a hash-based .pyc whose source is not looked for (PEP 552)


def write(path: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def stamp(package: Path) -> bytes:
    """Return what an archive of this package, made by this Python, carries as its comment."""
    record = (package / "RECORD").read_bytes()
    return hashlib.sha256(record + importlib.util.MAGIC_NUMBER).hexdigest().encode()


def is_current(archive: Path, comment: bytes) -> bool:
    """Whether the archive was made from these very files."""
    try:
        with zipfile.ZipFile(archive) as existing:
            return existing.comment == comment
    except (OSError, zipfile.BadZipFile):
        return False


def checked_sources(package: Path) -> dict[str, bytes]:
    """Return the package's modules by path, after checking all its files. Exits when one is not as recorded."""
    sources = {}
    for line in (package / "RECORD").read_text().splitlines():
        path, digest, _ = line.rsplit(",", 2)
        content = (LIBRARIES / path).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            sys.exit(f"compile-libraries: {path} is not the file that {package.name}/RECORD lists")
        if path.endswith(".py"):
            sources[path] = content
    return sources


def compiled(path: str, source: bytes) -> bytes:
    """Return a module's .pyc. Exits when it does not compile."""
    try:
        code = compile(source, f"libraries/{path}", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as mistake:
        sys.exit(f"compile-libraries: {path} does not compile: {mistake}")
    return importlib.util.MAGIC_NUMBER + CHECKED_NEVER + importlib.util.source_hash(source) + marshal.dumps(code)


def archived(sources: dict[str, bytes], comment: bytes) -> bytes:
    """Return an archive of all these modules, compiled."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, source in sorted(sources.items()):
            archive.writestr(zipfile.ZipInfo(path + "c"), compiled(path, source), zipfile.ZIP_DEFLATED)
        archive.comment = comment
    return content.getvalue()


def main() -> None:
    """Bring every archive up to date, and the summary last."""
    packages = sorted(record.parent for record in LIBRARIES.glob("*/RECORD"))
    made = 0
    for package in packages:
        archive, comment = BUILD / f"{package.name}.zip", stamp(package)
        if not is_current(archive, comment):
            write(archive, archived(checked_sources(package), comment))
            made += 1
    for left_over in set(BUILD.glob("*.zip")) - {BUILD / f"{package.name}.zip" for package in packages}:
        left_over.unlink()
    release = json.loads((LIBRARIES / "release.json").read_text())
    summary = {"version": release["version"], "packages": [package.name for package in packages]}
    write(BUILD / "libraries.json", json.dumps(summary).encode())
    print(f"{made} of {len(packages)} libraries compiled")


if __name__ == "__main__":
    main()
