"""Cheap seeded text for the example's files: Python modules, web assets, prose, SQL.

Each kind draws from a pool that is made once a seed; a file is a few hundred draws from it. So text costs little to
make, differs from file to file, and still is what it claims to be: the Python compiles, the SQL runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random

NOUNS = (
    "order", "price", "stock", "region", "amount", "rate", "total", "limit", "owner", "batch", "ledger", "parcel",
    "invoice", "voucher", "account", "tariff", "depot", "carrier", "refund", "basket", "coupon", "claim", "quote",
    "branch", "supplier", "contract", "payment", "receipt", "return", "shipment", "pallet", "margin", "budget",
    "forecast", "schedule", "license", "warranty", "customer", "catalog", "bundle",
)  # fmt: skip
_VERBS = ("settle", "merge", "split", "check", "round", "book", "cancel", "rank", "price", "route", "audit", "close")
_STYLES = ("margin", "padding", "width", "height", "border-width", "line-height", "max-width", "top", "left")
_LETTERS = "etaoinshrdlucmfwygpbvk"
_POOL = 400
_SHAPE = "@shape@"
"""Stands in a pool's text for what differs from use to use."""


def stream(*parts: object) -> Random:
    """Return the random numbers that belong to these parts, and to nothing else."""
    return Random(":".join(map(str, parts)))


def python_module(seed: int, path: str, size: int, imports: Sequence[str] = ()) -> str:
    """Return a module of about ``size`` characters that compiles."""
    rng = stream(seed, path)
    head = [f'"""{path}: {_sentence(rng)}"""\n', *(f"import {name}" for name in imports)]
    return "\n".join([*head, "\n", *_fill(rng, _functions(seed), size)])


def python_edit(seed: int, path: str, version: int) -> str:
    """Return what a release adds to the end of a module: one function."""
    rng = stream(seed, path, version)
    return "\n\n" + _use(rng, _functions(seed), f"in_release_{version}")


def broken_function() -> str:
    """Return a function that no compiler accepts."""
    return "\n\ndef settle_claim(claim, rate:\n    return claim * rate\n"


def javascript(seed: int, path: str, size: int) -> str:
    """Return a script of about ``size`` characters, with comments and white space to take away."""
    return "\n".join(_fill(stream(seed, path), _scripts(seed), size))


def stylesheet(seed: int, path: str, size: int) -> str:
    """Return a stylesheet of about ``size`` characters."""
    return "\n".join(_fill(stream(seed, path), _rules(seed), size))


def drawing(seed: int, path: str, size: int) -> str:
    """Return an SVG drawing of about ``size`` characters."""
    shapes = "\n".join(_fill(stream(seed, path), _paths(seed), size))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 999 999">\n{shapes}\n</svg>\n'


def prose(seed: int, path: str, size: int) -> str:
    """Return a manual page of about ``size`` characters: a title and paragraphs."""
    rng = stream(seed, path)
    title = f"# {' '.join(rng.sample(NOUNS, 3)).capitalize()}\n\n"
    return title + "\n\n".join(_fill(rng, _paragraphs(seed), size)) + "\n"


def page(seed: int, path: str, size: int) -> str:
    """Return an HTML template; ``{{title}}`` and ``{{body}}`` are filled in by the server."""
    rng = stream(seed, path)
    footer = "\n".join(f"    <p>{text}</p>" for text in _fill(rng, _paragraphs(seed), size))
    return (
        "<!doctype html>\n<!-- the product's own page -->\n<html>\n  <head><title>{{title}}</title></head>\n"
        f"  <body>\n    <main>{{{{body}}}}</main>\n{footer}\n  </body>\n</html>\n"
    )


def migration(seed: int, number: int) -> str:
    """Return the SQL of one step of the schema: a new table and its index."""
    rng = stream(seed, "migration", number)
    columns = rng.sample(NOUNS[1:], rng.randrange(4, 12))
    table = f"{rng.choice(NOUNS)}_{number:04d}"
    body = ",\n".join(f'  "{column}" INTEGER NOT NULL DEFAULT {rng.randrange(100)}' for column in columns)
    index = f'CREATE INDEX "{table}_by_{columns[0]}" ON "{table}" ("{columns[0]}");\n'
    return f'CREATE TABLE "{table}" (\n  id INTEGER PRIMARY KEY,\n{body}\n);\n{index}'


def _fill(rng: Random, pool: Sequence[str], size: int) -> list[str]:
    """Draw from the pool until there is about ``size`` characters' worth."""
    drawn: list[str] = []
    length = 0
    while length < size:
        drawn.append(_use(rng, pool, f"{len(drawn)}_{rng.randrange(10**6)}"))
        length += len(drawn[-1])
    return drawn


def _use(rng: Random, pool: Sequence[str], shape: str) -> str:
    return pool[int(rng.random() * len(pool))].replace(_SHAPE, shape)


def _sentence(rng: Random) -> str:
    return f"how to {rng.choice(_VERBS)} the {rng.choice(NOUNS)} of a {rng.choice(NOUNS)}."


@cache
def _functions(seed: int) -> Sequence[str]:
    rng = stream(seed, "functions")
    return [_function(rng) for _ in range(_POOL)]


def _function(rng: Random) -> str:
    one, two, three = rng.sample([noun for noun in NOUNS if noun != "return"], 3)
    lines = [
        f"def {rng.choice(_VERBS)}_{one}_{_SHAPE}({one}, {two}, {three}=None):",
        f'    """Work out {_sentence(rng)}"""',
        f"    result = {{'{one}': {one}, '{two}': {two}}}",
    ]
    for part in range(rng.randrange(2, 9)):
        lines += [
            f"    if {three} is not None and {one} > {rng.randrange(1000)}:",
            f"        result['{three}_{part}'] = ({one} * {rng.randrange(99)} + {two}) % {rng.randrange(2, 9999)}",
            f"    for item in range({rng.randrange(9)}):",
            f"        result['{two}'] += item * {rng.randrange(99)}  # ticket {rng.randrange(9999)}",
        ]
    return "\n".join([*lines, "    return result", "", ""])


@cache
def _scripts(seed: int) -> Sequence[str]:
    rng = stream(seed, "scripts")
    return [_script(rng) for _ in range(_POOL)]


def _script(rng: Random) -> str:
    one, two = rng.sample(NOUNS, 2)
    lines = [f"/* {_sentence(rng)} */", f"function {rng.choice(_VERBS)}_{one}_{_SHAPE}(first, second) {{"]
    for _ in range(rng.randrange(2, 8)):
        lines += [
            f"  // see ticket {rng.randrange(9999)} before changing this",
            f"  if (first.{one} > {rng.randrange(999)} && second.{two} !== 'no // comment') {{",
            f"    first.{two} = second.{one} * {rng.randrange(99)} + {rng.randrange(999)};",
            "  }",
        ]
    return "\n".join([*lines, "  return first;", "}", ""])


@cache
def _rules(seed: int) -> Sequence[str]:
    rng = stream(seed, "rules")
    return [_rule(rng) for _ in range(_POOL)]


def _rule(rng: Random) -> str:
    one, two = rng.sample(NOUNS, 2)
    body = "\n".join(f"  {rng.choice(_STYLES)}: {rng.randrange(200)}px;" for _ in range(rng.randrange(2, 8)))
    return f"/* {_sentence(rng)} */\n.{one} > .{two}-{_SHAPE} {{\n{body}\n}}\n"


@cache
def _paths(seed: int) -> Sequence[str]:
    rng = stream(seed, "paths")
    return [_path(rng) for _ in range(_POOL)]


def _path(rng: Random) -> str:
    points = " ".join(f"{rng.randrange(999)},{rng.randrange(999)}" for _ in range(rng.randrange(4, 30)))
    return f'  <!-- {_sentence(rng)} -->\n  <path id="p{_SHAPE}"   d="M {points} z" />'


@cache
def _paragraphs(seed: int) -> Sequence[str]:
    rng = stream(seed, "paragraphs")
    words = [*NOUNS, *_VERBS, *("".join(rng.choices(_LETTERS, k=rng.randrange(2, 11))) for _ in range(6000))]
    return [" ".join(rng.choices(words, k=rng.randrange(30, 90))).capitalize() + f" ({_SHAPE})." for _ in range(2000)]
