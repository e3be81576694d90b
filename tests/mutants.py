"""What mutmut found: the score of each file, and the changes that no test noticed. ``make mutants`` runs it."""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

MUTANTS = Path("mutants")
WANTED = 0.85
SURVIVED = (0, 5, 33)
"""Exit codes of pytest: all tests passed; no test ran (mutmut's word for that is 33)."""


@dataclass(frozen=True)
class Mutated:
    """A mutated file, and the exit code of the tests for each of its mutants; None: it was not tried."""

    path: Path
    codes: Mapping[str, int | None]

    @property
    def tried(self) -> int:
        """How many of the mutants were tried: fewer than there are where only some were asked for."""
        return sum(code is not None for code in self.codes.values())

    @property
    def survivors(self) -> list[str]:
        """The mutants that no test noticed."""
        return [name for name, code in self.codes.items() if code in SURVIVED]

    @property
    def score(self) -> float:
        """The share of the mutants that were tried which a test noticed."""
        return 1 - len(self.survivors) / self.tried


def mutated(root: Path = MUTANTS) -> Iterator[Mutated]:
    """Return every mutated file, in order."""
    for meta in sorted(root.rglob("*.py.meta")):
        codes = orjson.loads(meta.read_bytes())["exit_code_by_key"]
        if codes:
            yield Mutated(meta.with_suffix(""), codes)


def difference(file: Mutated, mutant: str) -> str:
    """Return the lines in which a mutant differs from what it was made of."""
    functions = {
        node.name: node
        for node in ast.walk(ast.parse(file.path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    name = mutant.rsplit(".", 1)[1]
    before, after = functions[f"{name.rsplit('__mutmut_', 1)[0]}__mutmut_orig"], functions[name]
    old, new = (ast.unparse(each).splitlines()[1:] for each in (before, after))
    lines = difflib.unified_diff(old, new, n=0, lineterm="")
    return "\n".join(f"    {line}" for line in lines if not line.startswith(("---", "+++", "@@")))


def main() -> int:
    """Print the report; 1 when a file's score is too low."""
    files = [file for file in mutated() if file.tried]
    for file in files:
        for mutant in file.survivors:
            print(mutant, difference(file, mutant), sep="\n")
    for file in files:
        print(f"{file.score:4.0%}  {file.tried - len(file.survivors)} of {file.tried}  {file.path}")
    return int(any(file.score < WANTED for file in files))


if __name__ == "__main__":
    sys.exit(main())
