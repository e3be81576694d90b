"""Those who ask at the same time are served together, by a batch that began after they had asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from shared.coalescing import Coalescer


class Served:
    """Serves numbers by doubling them, each batch when it is let."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.let = asyncio.Event()
        self.coalescer: Coalescer[str, int, int] = Coalescer(self.serve)

    async def serve(self, about: str, asked: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append((about, list(asked)))
        await self.let.wait()
        return [ValueError("seven") if each == 7 else each * 2 for each in asked]

    def begin(self, about: str, *asked: int) -> list[asyncio.Task[int]]:
        return [asyncio.ensure_future(self.coalescer.ask(about, each)) for each in asked]


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_asks_while_a_batch_is_served_is_in_the_next_one() -> None:
    served = Served()
    asking = served.begin("a", 1)
    await _turns()
    asking += served.begin("a", 2, 3)
    await _turns()
    served.let.set()
    assert await asyncio.gather(*asking) == [2, 4, 6]
    assert served.batches == [("a", [1]), ("a", [2, 3])]


async def test_those_who_ask_about_other_things_do_not_wait() -> None:
    served = Served()
    asking = served.begin("a", 1) + served.begin("b", 2)
    await _turns()
    assert served.batches == [("a", [1]), ("b", [2])]
    served.let.set()
    assert await asyncio.gather(*asking) == [2, 4]


async def test_one_error_befalls_the_one_that_it_is_for() -> None:
    served = Served()
    served.let.set()
    first, *asking = served.begin("a", 1, 7, 3)
    assert await first == 2
    assert await asking[1] == 6
    with pytest.raises(ValueError, match="seven"):
        await asking[0]


async def test_when_the_one_who_serves_is_cancelled_another_goes_on_for_the_rest() -> None:
    served = Served()
    first, *others = served.begin("a", 1, 2, 3)
    await _turns()
    first.cancel()
    await _turns()
    served.let.set()
    assert await asyncio.gather(*others) == [4, 6]
    assert served.batches == [("a", [1]), ("a", [2, 3])]


async def test_who_gave_up_is_not_served() -> None:
    served = Served()
    first, second, third = served.begin("a", 1, 2, 3)
    await _turns()
    second.cancel()
    await _turns()
    served.let.set()
    assert (await first, await third) == (2, 6)
    assert served.batches == [("a", [1]), ("a", [3])]


async def test_what_befalls_a_batch_befalls_all_in_it() -> None:
    async def fail(about: str, asked: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(0)
        raise OSError(f"{about} {len(asked)}")

    coalescer: Coalescer[str, int, int] = Coalescer(fail)
    found = await asyncio.gather(*(coalescer.ask("a", each) for each in range(3)), return_exceptions=True)
    assert [str(each) for each in found] == ["a 1", "a 2", "a 2"]
