"""Where a stack's disks are: in memory when there is plenty, since the local cloud copies whole disks all the time."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")  # noqa: S108 - the name is derived from the folder's own and made private to this user

OURS = ".stack"
"""Marks a folder as a stack's own, so that nothing else is ever emptied."""

PLENTY_BYTES = 12_000_000_000
"""Six servers, two images and the releases take about half of it."""


class UnusableFolder(Exception):
    """The folder cannot be made, or holds what no stack put there; the message is a sentence for a person."""


def make_folder(folder: Path) -> Path:
    """Make the folder (a link into memory where there is plenty of it), empty, and return where it really is.

    Raises:
        UnusableFolder: it cannot be written, or has something in it that no stack put there; nothing was touched.
    """
    try:
        return _made(folder)
    except OSError as error:
        raise UnusableFolder(f"{folder} cannot be used: {error.strerror}; name another with --folder") from error


def _made(folder: Path) -> Path:
    if not folder.exists() and _plenty():
        name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]
        target = MEMORY / f"autoprovisioner-{name}"
        target.mkdir(mode=0o700, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.unlink(missing_ok=True)  # a link whose target was lost with the memory
        folder.symlink_to(target)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / OURS).exists():
        raise UnusableFolder(f"{folder} has other things in it; name an empty or new folder with --folder")
    (folder / OURS).touch()
    empty_folder(folder)
    return folder.resolve()


def empty_folder(folder: Path, keep: str = "") -> None:
    """Delete what a stack left in its folder, but for the entry named ``keep``. Does nothing to others' folders."""
    if not (folder / OURS).exists():
        return
    for entry in folder.iterdir():
        if entry.name in {keep, OURS}:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _plenty() -> bool:
    if not MEMORY.is_dir():
        return False
    return min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) >= PLENTY_BYTES
