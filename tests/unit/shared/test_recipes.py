import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.recipes import TooMuch, copies, fresh, recipe


def applied(old: bytes, numbers: list[int], literals: bytes) -> bytes:
    made, position, taken = b"", 0, 0
    for literal, skip, copy in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        made += literals[taken : taken + literal]
        taken, position = taken + literal, position + skip
        made += old[position : position + copy]
        position += copy
    return made


@given(st.lists(st.sampled_from([b"a" * 40, b"b" * 33, b"c", bytes(range(64))])), st.data())
def test_a_recipe_makes_the_new_content_from_the_old(parts: list[bytes], data: st.DataObject) -> None:
    old = b"".join(parts)
    new = b"".join(data.draw(st.permutations(parts))) + data.draw(st.binary())
    same = copies(old, new, len(new))
    assert applied(old, recipe(same, len(new)), fresh(same, new)) == new


def test_what_moved_or_stayed_is_not_new() -> None:
    old = random.Random(1).randbytes(300_000)
    new = old[:1000] + b"put in" + old[1000:200_000] + old[200_010:] + old[:500]
    same = copies(old, new, 6)
    assert applied(old, recipe(same, len(new)), fresh(same, new)) == new
    assert fresh(same, new) == b"put in"


@pytest.mark.parametrize("old", [b"", b"y" * 1000])
@pytest.mark.parametrize("new", [b"x" * 11, bytes(range(100))])
def test_more_that_is_new_than_is_worth_it_is_too_much(old: bytes, new: bytes) -> None:
    assert copies(old, new, len(new)) == []
    with pytest.raises(TooMuch):
        copies(old, new, 10)
