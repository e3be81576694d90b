"""Finding in an earlier content what a new one has in common with it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap
from typing import NamedTuple

Text = bytes | mmap

_BLOCK, _MOST_BLOCKS = 32, 65_536
"""Of the earlier content every so many bytes are looked for: enough for a line of code; longer ones in large files,
by so much of either end of them."""


class Copy(NamedTuple):
    """A stretch of the new content that the earlier one has too, at ``source``. All in bytes."""

    start: int
    source: int
    length: int


class TooMuch(Exception):
    """More of a content is new than is worth finding out."""


def copies(old: Text, new: bytes, most_new: int) -> list[Copy]:
    """Return what of ``new`` is in ``old``, in the order of ``new``; what lies between is new.

    Raises:
        TooMuch: more than ``most_new`` bytes would be new.
    """
    block = max(_BLOCK, len(old) // _MOST_BLOCKS)
    found: list[Copy] = []
    known: dict[bytes, int] = {}
    starts: set[bytes] = set()
    if not len(old) and len(new) <= most_new:
        return found
    length = _same(old, new, 0, 0)
    done, added = length if length >= block else 0, 0
    if done:
        found.append(Copy(0, 0, done))
    at = done
    while at + block <= len(new):
        if not known:
            known = _blocks(old, block)
            starts = {ends[:_BLOCK] for ends in known}
        here = known.get(_ends(new, at, block)) if new[at : at + _BLOCK] in starts else None
        if here is None or old[here : here + block] != new[at : at + block]:
            at += 1
            if added + at - done > most_new + 2 * block:
                raise TooMuch
            continue
        back = _same_before(old, new, here, at, done)
        found.append(Copy(at - back, here - back, back + _same(old, new, here, at)))
        added += at - back - done
        done = at = found[-1].start + found[-1].length
    if added + len(new) - done > most_new:
        raise TooMuch
    return found


def recipe(made: Sequence[Copy], size: int) -> list[int]:
    """Return copies as a delta has them: threes of (bytes that are new, bytes to go on in the old, bytes to copy).

    ``size`` is the new content's; the old is read from where the copy before ended.
    """
    numbers: list[int] = []
    done = position = 0
    for start, source, length in made:
        numbers += [start - done, source - position, length]
        done, position = start + length, source + length
    return [*numbers, size - done, 0, 0] if done < size else numbers


def fresh(made: Sequence[Copy], new: bytes) -> bytes:
    """Return all of the new content that no copy brings."""
    ends = [0, *(copy.start + copy.length for copy in made)]
    starts = [*(copy.start for copy in made), len(new)]
    return b"".join(new[end:start] for end, start in zip(ends, starts, strict=True))


def _blocks(old: Text, block: int) -> dict[bytes, int]:
    """Return where each block is first, by its ends."""
    return {_ends(old, at, block): at for at in range((len(old) // block - 1) * block, -1, -block)} or {b"": 0}


def _ends(text: Text, at: int, block: int) -> bytes:
    return text[at : at + _BLOCK] + text[at + block - _BLOCK : at + block]


def _same(old: Text, new: bytes, i: int, j: int) -> int:
    """Return how many bytes are the same from here on, by comparing ever longer slices, then ever shorter ones."""
    length, step, most = 0, 64, min(len(old) - i, len(new) - j)
    while step and length < most:
        step = min(step, most - length)
        if old[i + length : i + length + step] == new[j + length : j + length + step]:
            length, step = length + step, min(step * 2, 1 << 20)
        else:
            step //= 2
            most = min(most, length + 2 * step + 1)
    return length


def _same_before(old: Text, new: bytes, i: int, j: int, least: int) -> int:
    count = 0
    while i - count > 0 and j - count > least and old[i - count - 1] == new[j - count - 1]:
        count += 1
    return count
