"""Reads a fleet's YAML description: ``python -m deploy.fleet FILE`` checks one, and names line, field and mend.

The schema is ``shared.fleet``; ``--schema`` prints it as JSON Schema, ``--reference`` as the page docs/fleet.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from deploy.mistakes import cause, meant, near, sentence
from deploy.reference import fleet_reference, fleet_schema
from deploy.yamllines import FleetError, Place, Source, read_text, read_values
from shared.fleet import CheckStep, Fleet, RunStep, SyncStep, overlap

_KINDS: Mapping[str, type[RunStep | SyncStep | CheckStep]] = {"run": RunStep, "sync": SyncStep, "check": CheckStep}
_STAND_IN = {"step": "stand-in", "check": "http://{address}/"}
"""Takes the plan's place while the rest is checked: steps are checked one by one, each against its own kind."""


def read_fleet(path: Path) -> Fleet:
    """Read a fleet's description, with the texts of the scripts that it names.

    Raises:
        FleetError: the file can not be read, or something in it is wrong.
    """
    source = Source(path)
    value = read_values(source, read_text(path))
    source.raise_if_wrong()
    if not isinstance(value, dict):
        source.blame((), "must be a mapping of fields, such as fleet: web")
        source.raise_if_wrong()
    plan = value.get("plan")
    steps = _steps(source, plan) if isinstance(plan, list) and plan else None
    rest = _checked(source, Fleet, value if steps is None else {**value, "plan": [_STAND_IN]})
    _check_placeholders(source, value)
    source.raise_if_wrong()
    return _whole(source, rest, steps or [])


def _whole(source: Source, rest: BaseModel | None, steps: Sequence[BaseModel | None]) -> Fleet:
    """Put the fleet together once more, so that the model's own rules have the last word."""
    try:
        described = rest.model_dump(by_alias=True, exclude={"plan"}) if rest else {}
        return Fleet.model_validate({**described, "plan": steps})
    except ValidationError as error:
        for detail in error.errors():
            source.blame((), cause(detail))
        source.raise_if_wrong()
        raise


def _steps(source: Source, plan: Sequence[Any]) -> list[BaseModel | None]:
    """Check every step against its own kind, fill in the scripts, and check how the steps hang together."""
    steps = [_step(source, ("plan", number), value) for number, value in enumerate(plan)]
    synced = [step["sync"] for step in plan if isinstance(step, dict) and isinstance(step.get("sync"), str)]
    seen: dict[str, int] = {}
    for number, value in enumerate(plan):
        if isinstance(value, dict):
            _check_links(source, ("plan", number), value, seen, synced)
    _check_directories(source, plan)
    return steps


def _step(source: Source, path: Place, value: Any) -> BaseModel | None:
    if not isinstance(value, dict):
        source.blame(path, "must be a step: a mapping with step: and one of run:, sync: or check:")
        return None
    kinds = [kind for kind in _KINDS if kind in value]
    if len(kinds) != 1:
        source.blame(path, _kind_mistake(kinds, value))
        return None
    if "script" in value:
        source.blame((*path, "script"), "is filled in from the file that run names; remove it")
        return None
    step = _checked(source, _KINDS[kinds[0]], value, path)
    if isinstance(step, RunStep):
        return _checked(source, RunStep, {**value, "script": _script(source, (*path, "run"), step.run)}, path)
    return step


def _kind_mistake(kinds: Sequence[str], value: Mapping[str, Any]) -> str:
    if kinds:
        return f"has {' and '.join(kinds)}; keep one of them, and make a step of its own of each other"
    guesses = ((key, near(key, list(_KINDS))) for key in value)
    hint = next((f", or did you mean {guess} by {key}?" for key, guess in guesses if guess), "")
    return f"has none of run, sync and check; say which it is{hint}"


def _script(source: Source, path: Place, name: str) -> str:
    """Return the text of the script beside the description, or an empty one when that is a mistake, noted."""
    file = source.file.parent / name
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        others = [str(other.relative_to(source.file.parent)) for other in file.parent.glob("*") if other.is_file()]
        source.blame(path, f"names {name}, which is not beside {source.file.name}{meant(name, others, 'add the file')}")
        return ""
    except (OSError, UnicodeDecodeError) as error:
        source.blame(path, f"names {name}, which can not be read as text ({error}); mend the file")
        return ""
    if not text.strip():
        source.blame(path, f"names {name}, which is empty; write the script")
    return text


def _check_links(source: Source, path: Place, step: dict[str, Any], seen: dict[str, int], synced: list[str]) -> None:
    """Check the names that a step shares with others: its own, those it needs, the components that it reads."""
    name = step.get("step")
    needs, inputs = step.get("needs"), step.get("inputs")
    for number, need in enumerate(needs if isinstance(needs, list) else ()):
        if isinstance(need, str) and need not in seen:
            mend = meant(need, list(seen), "name a step above it")
            source.blame((*path, "needs", number), f"is {need}, which is not a step before this one{mend}")
    for component in inputs if isinstance(inputs, dict) else ():
        if component not in synced:
            mend = meant(component, synced, "add a sync step for it")
            source.blame((*path, "inputs", component), f"is a component that no step syncs{mend}")
    if isinstance(name, str):
        if name in seen:
            source.blame((*path, "step"), f"is {name}, as on line {seen[name]} already; give each step its own name")
        seen.setdefault(name, source.line((*path, "step")))


def _check_directories(source: Source, plan: Sequence[Any]) -> None:
    """Check that no two steps sync to the same place: each is a whole release, and nothing else."""
    seen: list[tuple[int, str]] = []
    for number, step in enumerate(plan):
        to = step.get("to") if isinstance(step, dict) else None
        if not isinstance(to, str):
            continue
        for other, there in seen:
            if overlap(to, there):
                line = source.line(("plan", other, "to"))
                mend = "give each component a directory of its own"
                source.blame(("plan", number, "to"), f"is {to}, but line {line} syncs to {there}; {mend}")
        seen.append((number, to))


def _checked(source: Source, model: type[BaseModel], value: Any, path: Place = ()) -> BaseModel | None:
    """Return the value as the model, or None when it is wrong, with the mistakes noted."""
    try:
        # As JSON, whose strict mode takes lists for tuples, but neither text nor true for a number.
        return model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        for detail in error.errors():
            place = tuple(part for part in detail["loc"] if part != "[key]")
            source.blame((*path, *place), sentence(model, detail))
    return None


def _check_placeholders(source: Source, value: Mapping[str, Any]) -> None:
    """Check that URLs use no placeholder but ``{address}``."""
    health, plan = value.get("health"), value.get("plan")
    steps = enumerate(plan) if isinstance(plan, list) else ()
    urls: list[tuple[Place, Any]]
    urls = [(("plan", number, "check"), step.get("check")) for number, step in steps if isinstance(step, dict)]
    urls += [(("health", "url"), health.get("url"))] if isinstance(health, dict) else []
    for path, url in urls:
        for name in re.findall(r"\{(.*?)\}", url) if isinstance(url, str) else ():
            if name != "address":
                source.blame(path, f"uses {{{name}}}, but only {{address}} is filled in; write {{address}}")


def main(argv: Sequence[str] | None = None) -> int:
    """Check a description or print the schema; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.fleet", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="the YAML file to check")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema and end")
    parser.add_argument("--reference", action="store_true", help="print the reference page and end")
    asked = parser.parse_args(argv)
    if asked.reference:
        print(fleet_reference(), end="")
        return 0
    if asked.schema:
        print(json.dumps(fleet_schema(), indent=2))
        return 0
    if asked.file is None:
        parser.error("name a file, or ask for --schema or --reference")
    try:
        fleet = read_fleet(asked.file)
    except FleetError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{asked.file}: fleet {fleet.fleet}, {len(fleet.plan)} steps, {len(fleet.components)} components: fine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
