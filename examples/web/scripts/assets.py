#!/usr/bin/env python3
"""Minify and compress every asset and template, name it by its content, and bundle each folder for offline use.

Reads srv/monolith/assets and srv/monolith/templates, writes srv/build/assets. Files that are there already are kept:
their names say what they were made from. The manifest, written last, says where each asset is to be found.
"""

import gzip
import hashlib
import io
import json
import lzma
import os
import re
import tarfile
from pathlib import Path

ROOT = Path(os.environ.get("SERVER_ROOT") or "/")
MONOLITH = ROOT / "srv/monolith"
BUILD = ROOT / "srv/build/assets"
RULES = "1"  # raise it when the minifiers below change: every name changes with it

STRING = r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|`(?:\\.|[^`\\])*`"
JS_TOKEN = re.compile(
    rf"(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<keep>{STRING}|[\w$]+)|(?P<space>\s+)|(?P<mark>.)", re.DOTALL
)
CSS_NOISE = re.compile(r"/\*.*?\*/|\s+", re.DOTALL)
CSS_AROUND = re.compile(r"\s*([{};,>])\s*")
XML_NOISE = re.compile(r"<!--.*?-->", re.DOTALL)
XML_SPACE = re.compile(r"\s+")


def write(path: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def minified_js(text: str) -> str:
    """Return the script without comments, and with white space only where it means something.

    Knows no regular expressions between slashes: the product's scripts have none.
    """
    out: list[str] = []
    gap = ""
    for token in JS_TOKEN.finditer(text):
        if token.lastgroup == "comment":
            continue
        if token.lastgroup == "space":
            # A line's end can end a statement, so it is kept as one.
            gap = "\n" if "\n" in token.group() or gap == "\n" else " "
            continue
        if gap and out and (gap == "\n" or (is_word(out[-1]) and is_word(token.group()))):
            out.append(gap)
        gap = ""
        out.append(token.group())
    return "".join(out)


def is_word(token: str) -> bool:
    """Whether the token would run together with another word."""
    return token[-1].isalnum() or token[-1] in "_$"


def minified_css(text: str) -> str:
    """Return the stylesheet without comments and needless white space."""
    return CSS_AROUND.sub(r"\1", CSS_NOISE.sub(" ", text)).strip()


def minified_xml(text: str) -> str:
    """Return the page or drawing without comments and runs of white space."""
    return XML_SPACE.sub(" ", XML_NOISE.sub("", text)).strip()


MINIFIERS = {".js": minified_js, ".css": minified_css, ".svg": minified_xml, ".html": minified_xml}


def place(asset: Path, content: bytes) -> str:
    """Return where the finished asset belongs: its name carries the digest of what it is made from."""
    digest = hashlib.sha256(RULES.encode() + content).hexdigest()[:16]
    return f"{asset.parent.relative_to(MONOLITH)}/{asset.stem}.{digest}{asset.suffix}.gz"


def finish(asset: Path, content: bytes) -> bytes:
    """Return the asset minified and compressed."""
    return gzip.compress(MINIFIERS[asset.suffix](content.decode()).encode(), 9, mtime=0)


def build_folder(folder: Path) -> dict[str, str]:
    """Build one folder's assets; return where each is, below the server's root."""
    found: dict[str, str] = {}
    finished: list[str] = []
    for asset in sorted(path for path in folder.iterdir() if path.is_file()):
        name = str(asset.relative_to(MONOLITH))
        content = asset.read_bytes()
        if asset.suffix not in MINIFIERS:
            # Images and sounds are compressed already; they are served from where they are.
            found[name] = f"srv/monolith/{name}?{hashlib.sha256(content).hexdigest()[:16]}"
            continue
        where = place(asset, content)
        if not (BUILD / where).exists():
            write(BUILD / where, finish(asset, content))
        finished.append(where)
        found[name] = f"srv/build/assets/{where}"
    if finished and folder.parent.name == "assets":
        found[f"offline/{folder.name}"] = f"srv/build/assets/{bundle(folder.name, finished)}"
    return found


def bundle(name: str, members: list[str]) -> str:
    """Make the archive of a folder that the field engineers take along; return where it is."""
    digest = hashlib.sha256("\n".join(members).encode()).hexdigest()[:16]
    where = f"offline/{name}.{digest}.tar.xz"
    if not (BUILD / where).exists():
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for member in members:
                plain = gzip.decompress((BUILD / member).read_bytes())
                entry = tarfile.TarInfo(member.removesuffix(".gz"))
                entry.size = len(plain)
                archive.addfile(entry, io.BytesIO(plain))
        write(BUILD / where, lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    return where


def remove_left_overs(wanted: set[str]) -> None:
    """Remove what was built from assets that are gone, or was cut off."""
    for path in BUILD.rglob("*"):
        if path.is_file() and str(path.relative_to(ROOT)) not in wanted and path.name != "manifest.json":
            path.unlink()


def main() -> None:
    """Build every folder, and the manifest last."""
    manifest: dict[str, str] = {}
    for folder in sorted(path for part in ("assets", "templates") for path in (MONOLITH / part).iterdir()):
        manifest.update(build_folder(folder))
    write(BUILD / "manifest.json", json.dumps(manifest, indent=1).encode())
    remove_left_overs(set(manifest.values()))
    print(f"{len(manifest)} assets in place")


if __name__ == "__main__":
    main()
