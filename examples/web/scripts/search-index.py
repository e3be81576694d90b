#!/usr/bin/env python3
"""Build the full-text index of the product's manual: SQLite FTS5 with stemming, for whole words and beginnings.

Reads srv/monolith/docs, writes srv/build/search.db, which is replaced whole, and only when the manual is another.
"""

import hashlib
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

ROOT = Path(os.environ.get("SERVER_ROOT") or "/")
DOCS = ROOT / "srv/monolith/docs"
INDEX = ROOT / "srv/build/search.db"
RULES = "1"  # raise it when the index is built in another way
MARKUP = re.compile(r"[#*_`>\[\]()]+")

SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE about (digest TEXT NOT NULL, documents INTEGER NOT NULL);
CREATE TABLE pages (id INTEGER PRIMARY KEY, path TEXT NOT NULL, title TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(title, body, content='', tokenize='porter unicode61', prefix='2 3');
"""


def pages() -> list[Path]:
    """Return the pages of the manual in order."""
    return sorted(DOCS.rglob("*.md"))


def digest() -> str:
    """Return a digest over the whole manual."""
    whole = hashlib.sha256(RULES.encode())
    for page in pages():
        whole.update(f"{page.relative_to(DOCS)}\0".encode() + hashlib.sha256(page.read_bytes()).digest())
    return whole.hexdigest()


def is_current(manual: str) -> bool:
    """Whether the index was built from this manual."""
    if not INDEX.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{INDEX.as_uri()}?mode=ro", uri=True)) as index:
            return bool(index.execute("SELECT digest FROM about").fetchone() == (manual,))
    except sqlite3.DatabaseError:
        return False


def rows() -> Iterator[tuple[int, str, str, str]]:
    """Yield number, path, title and text of each page."""
    for number, page in enumerate(pages(), 1):
        title, _, body = page.read_text().partition("\n")
        yield number, str(page.relative_to(DOCS)), title.lstrip("# "), MARKUP.sub(" ", body)


def build(target: Path, manual: str) -> int:
    """Build the index of the manual; return how many pages there are."""
    index = sqlite3.connect(target)
    index.executescript(SCHEMA)
    count = 0
    for number, path, title, body in rows():
        index.execute("INSERT INTO pages VALUES (?, ?, ?)", (number, path, title))
        index.execute("INSERT INTO words (rowid, title, body) VALUES (?, ?, ?)", (number, title, body))
        count += 1
    index.execute("INSERT INTO words (words) VALUES ('optimize')")
    index.execute("INSERT INTO about VALUES (?, ?)", (manual, count))
    index.commit()
    index.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    index.close()
    return count


def main() -> None:
    """Build the index when the manual is another than the one that it was built from."""
    manual = digest()
    if is_current(manual):
        print("the index is up to date")
        return
    INDEX.parent.mkdir(parents=True, exist_ok=True)
    fresh = INDEX.with_name(".search.db.new")
    fresh.unlink(missing_ok=True)
    count = build(fresh, manual)
    if not count:
        sys.exit(f"search-index: no pages in {DOCS}")
    os.replace(fresh, INDEX)
    print(f"{count} pages indexed")


if __name__ == "__main__":
    main()
