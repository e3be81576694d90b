"""What the system must survive, and which tests prove that it does: ``python -m tests.faults`` writes docs/faults.md.

A test says which faults it proves: ``@pytest.mark.fault(10, 12)``. Tests are found by reading, not by importing them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
PAGE = REPOSITORY / "docs" / "faults.md"


class Place(StrEnum):
    """Where a test stands: how near to the real thing it proves something."""

    UNIT = "unit"
    """The real handlers and decisions on fakes that keep state."""
    PROPERTY = "property"
    """Inputs drawn by hypothesis."""
    TEMPLATE = "template"
    """What is deployed, read and checked."""
    SIMULATION = "simulation"
    """All services on the model of AWS, in virtual time."""
    SWEEP = "sweep"
    """A workflow struck at each of its awaits."""
    WIRE = "wire"
    """Over HTTP, on the local cloud or LocalStack."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, and what must come of it."""

    what: str
    required: str
    places: tuple[Place, ...]
    """Where it must be proven, at least."""
    waits: str = ""
    """What is not there yet, without which it cannot be proven."""


@dataclass(frozen=True)
class Proof:
    """A test that says which faults it proves."""

    name: str
    path: str
    place: Place
    faults: tuple[int, ...]


_S, _K, _H, _W, _P = Place.SIMULATION, Place.SWEEP, Place.PROPERTY, Place.WIRE, Place.TEMPLATE

FAULTS: Mapping[int, Fault] = {
    1: Fault(
        "A conditional write takes effect, its reply is lost, and the client's own repetition is answered with 412",
        "The document is read back: our own write id in it means success",
        (_S, _W),
    ),
    2: Fault(
        "Two writers race for a document",
        "The loser reads again and decides again, a bounded number of times",
        (_S,),
    ),
    3: Fault(
        "A document becomes what it was before, and so does its entity tag",
        "No two writes have the same bytes: each has its own generation and write id",
        (_H,),
    ),
    4: Fault("Two registries run at once", "The pointer's generations are one chain without a gap or a fork", (_S,)),
    5: Fault(
        "A process stands still, wakes, and goes on with what it knew",
        "Its write is refused, and effects follow only a write that was won",
        (_S,),
    ),
    6: Fault(
        "The janitor acts on what it read a while ago",
        "An image is set aside first, looked at once more after a wait, and only then deregistered",
        (_S,),
    ),
    7: Fault(
        "An image is old enough to go while something still refers to it",
        "It stays: for the pointer and its history, a launch template, an instance, a launch under way",
        (_S,),
    ),
    8: Fault(
        "A rollback names an image that is gone or cannot be launched",
        "It is refused with a sentence, and the pointer stays",
        (_S,),
    ),
    9: Fault(
        "A document is damaged, or of a newer schema",
        "That is an error and an alert; nothing is destroyed or overwritten on its account",
        (_H,),
    ),
    10: Fault("A message comes twice", "It has one effect", (_S,)),
    11: Fault("Messages come out of order", "Generations and a fresh look at AWS decide, not the order", (_S,)),
    12: Fault("A message comes hours late", "What is true today decides", (_S,)),
    13: Fault("A message never comes", "The next sweep makes up for it", (_S,)),
    14: Fault(
        "A message that cannot be read, or kills who reads it",
        "It ends in the dead-letter queue with the reason, and holds up no other",
        (_H, _W),
    ),
    15: Fault(
        "A forged message", "A message is a hint: what it says is looked up in AWS before anything is done", (_H,)
    ),
    16: Fault("AWS does not show yet what was made", "It is tried again, and the message is kept until then", (_S,)),
    17: Fault(
        "A message becomes visible again while it is worked on",
        "It is kept hidden while work goes on, and when that fails the overlap does no harm",
        (_S, _W),
    ),
    18: Fault("A process dies before or after it deletes a message", "Doing it again changes nothing", (_K,)),
    19: Fault(
        "A dead-letter queue fills",
        "An alarm rings at the first letter; letters are kept longer than the queues they come from",
        (_P,),
    ),
    20: Fault(
        "A launch is over for Auto Scaling before it is for us", "Completing it is a no-op that is logged", (_S,)
    ),
    21: Fault(
        "An image from which no launch succeeds",
        "After so many tries launches wait, the pointer goes back once, and one alert says so",
        (_S,),
    ),
    22: Fault("A server never boots, or never reports", "It is given up before its hook runs out", (_S,)),
    23: Fault("The reply to the completion of a hook is lost", "Completing it again does no harm", (_S,)),
    24: Fault("EC2 says NotFound right after a launch or a termination", "That is no proof of death", (_S,)),
    25: Fault("The reply to a launch is lost", "The same token again: never a second builder", (_S,)),
    26: Fault(
        "The reply to the making of an image is lost",
        "Its name is known beforehand, and what is there is adopted",
        (_S,),
    ),
    27: Fault("AWS throttles everything", "Calls are spaced by jittered waits and bounded: no hot loop", (_S, _W)),
    28: Fault(
        "There is no capacity, or a quota is used up", "It is tried less and less often, and told at most once", (_S,)
    ),
    29: Fault("A listing breaks off half way", "Nobody is killed and nothing deleted on part of a view", (_S,)),
    30: Fault("A set of targets is empty", "That means nothing, never everything", (_H,)),
    31: Fault("A whole zone, or every server, looks sick", "Nobody is touched, and a person is called", (_S,)),
    32: Fault(
        "Health pages cannot be reached, or flap",
        "Unknown is not sick, and only several failures in a row are",
        (_S,),
    ),
    33: Fault("More kills are asked for than the fleet can bear", "Floor, share and hourly cap hold", (_H,)),
    34: Fault(
        "Every server is relaunched at once after an outage",
        "As many launches as servers were lost, calls within their budget, and so many at once",
        (_S,),
    ),
    35: Fault(
        "A pause, and a restart of those who must keep it", "A pause is a document, read before every kill", (_S,)
    ),
    36: Fault("Chaos during an incident or with an alarm unknown", "Nobody is killed", (_S,)),
    37: Fault(
        "A clock is ten minutes off, or jumps",
        "Deadlines are taken from clocks that do not jump, order from generations: workflows end as ever",
        (_S,),
    ),
    38: Fault("A builder is leaked", "It is found by its tags and its age, and terminated", (_K,)),
    39: Fault("Bakes are asked for without end", "One at a time for each fleet, and so many a day", (_S,)),
    40: Fault("Shell characters in a field", "Refused before there is a command that they could be in", (_H, _P)),
    41: Fault("An image of another account that looks like ours", "Owner and bake record are checked", (_H,)),
    42: Fault(
        "Credentials have expired, or do not allow a call", "Nobody is killed, a person is called, nothing spins", (_W,)
    ),
    43: Fault("Hundreds of alarms for one cause", "One alert for each fleet and cause", (_S,)),
    44: Fault("All services are dead for a day", "The fleet goes on serving, and afterwards comes right", (_S,)),
}


def marked(root: Path = TESTS) -> Sequence[Proof]:
    """Return every test that says which faults it proves, in the order of the files.

    Raises:
        ValueError: a mark is not made of plain numbers.
    """
    return [test for path in sorted(root.rglob("test_*.py")) for test in _in_file(path)]


def _in_file(path: Path) -> Iterator[Proof]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            faults = [number for each in node.decorator_list for number in _numbers(each, node.name)]
            if faults:
                where = path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else path.name
                yield Proof(node.name, where, _place(where, node), tuple(faults))


def _numbers(decorator: ast.expr, test: str) -> list[int]:
    if not (isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault"):
        return []
    numbers = [each.value for each in decorator.args if isinstance(each, ast.Constant) and isinstance(each.value, int)]
    if decorator.keywords or not numbers or len(numbers) != len(decorator.args):
        raise ValueError(f"{test}: the numbers of faults must be written out")
    return numbers


def _place(where: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Place:
    if any(isinstance(each, ast.Call) and ast.unparse(each.func) == "given" for each in node.decorator_list):
        return Place.PROPERTY
    if where.endswith("simulation/test_sweep.py"):
        return Place.SWEEP
    by_folder = {
        "tests/simulation/": Place.SIMULATION,
        "tests/wire/": Place.WIRE,
        "tests/unit/deploy/": Place.TEMPLATE,
    }
    return next((place for folder, place in by_folder.items() if where.startswith(folder)), Place.UNIT)


def wrong(tests: Sequence[Proof], faults: Mapping[int, Fault] = FAULTS) -> list[str]:
    """Return a sentence for each mark of a fault that there is none of, and each place where a fault is not proven."""
    found = [
        f"{test.path}: {test.name} is marked with {number}, which is no fault"
        for test in tests
        for number in test.faults
        if number not in faults
    ]
    for number, fault in faults.items():
        held = {test.place for test in tests if number in test.faults}
        lacking = [place for place in fault.places if place not in held]
        if lacking and not fault.waits:
            found.append(f"fault {number} ({fault.what}) has no {' and no '.join(lacking)} test")
    return found


def page(tests: Sequence[Proof]) -> str:
    """Return docs/faults.md."""
    rows = [_row(number, fault, [test for test in tests if number in test.faults]) for number, fault in FAULTS.items()]
    return "\n".join([_HEAD, *rows, ""])


def _row(number: int, fault: Fault, tests: Sequence[Proof]) -> str:
    names = [f"{test.place}: [{_readable(test.name)}](../{test.path})" for test in tests]
    waiting = [f"**waits for {fault.waits}**"] if fault.waits else []
    return f"| {number} | {fault.what} | {fault.required} | {'<br>'.join(waiting + names)} |"


def _readable(name: str) -> str:
    return re.sub(r"_+", " ", name.removeprefix("test_"))


_HEAD = """\
# Faults

What the system must survive, what must come of it, and the tests that say so. This page is made by
`python -m tests.faults` from the table in [tests/faults.py](../tests/faults.py) and from the tests' marks
(`@pytest.mark.fault(10)`); a test fails when it is stale, when a mark names no fault, or when a fault has no test
in a place where it must have one.

Places: *unit*, the real handlers and decisions on fakes that keep state; *property*, the same with inputs drawn by
hypothesis; *template*, checks of what is deployed; *simulation*, all services on the model of AWS; *sweep*, each
workflow struck at each of its awaits; *wire*, over HTTP.

| # | Fault | What must come of it | Proven by |
|---|---|---|---|"""

if __name__ == "__main__":
    PAGE.write_text(page(marked()))
