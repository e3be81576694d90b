"""Doing once what several ask for at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

A = TypeVar("A")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)

Serve = Callable[[K, Sequence[A]], Awaitable[Sequence[R | Exception]]]
"""Serves a batch: returns one answer, or one error, for each that asked."""


@dataclass(eq=False)
class _Asker(Generic[A, R]):
    """One who asks, and what came of it."""

    asked: A
    outcome: R | Exception | None = None
    given_up: bool = False

    def answer(self) -> R:
        assert self.outcome is not None, "whoever holds the lock serves all that wait"
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass(eq=False)
class _Line(Generic[A, R]):
    """Those who ask about the same thing and wait for each other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: list[_Asker[A, R]] = field(default_factory=list)


class Coalescer(Generic[K, A, R]):
    """Serves those who ask about the same thing one batch after another.

    While a batch is being served others wait, and the next batch takes all of them: what somebody is answered began
    after he had asked. None is no answer.
    """

    def __init__(self, serve: Serve[K, A, R]) -> None:
        self._serve = serve
        self._lines: WeakValueDictionary[K, _Line[A, R]] = WeakValueDictionary()

    async def ask(self, about: K, asked: A) -> R:
        """Be served with the others; raises what befell the batch, or this one in it."""
        line = self._line(about)
        ours: _Asker[A, R] = _Asker(asked)
        line.waiting.append(ours)
        try:
            async with line.lock:
                if ours.outcome is None:
                    await self._serve_all(about, line)
        finally:
            ours.given_up = True
        return ours.answer()

    def _line(self, about: K) -> _Line[A, R]:
        line = self._lines.get(about)
        if line is None:
            line = self._lines[about] = _Line()
        return line

    async def _serve_all(self, about: K, line: _Line[A, R]) -> None:
        batch = [each for each in line.waiting if not each.given_up]
        line.waiting = []
        outcomes: Sequence[R | Exception]
        try:
            outcomes = await self._serve(about, [each.asked for each in batch])
        except Exception as error:  # noqa: BLE001  raised to each of them
            outcomes = [error] * len(batch)
        except BaseException:  # cancelled, mostly: whoever of them is still there goes on with it
            line.waiting = [*batch, *line.waiting]
            raise
        for asker, outcome in zip(batch, outcomes, strict=True):
            asker.outcome = outcome
