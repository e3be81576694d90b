"""The Dockerfile as the tests read it: stages, and the folder that a stage's image would have as its own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.composefile import REPOSITORY


@dataclass(frozen=True)
class Stage:
    """One stage, with the instructions of the stages that it is made from before its own."""

    name: str
    base: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """All its instructions."""
        return "\n".join(self.lines)

    @property
    def user(self) -> str | None:
        """Whom its processes run as."""
        return self.instruction("USER")

    def instruction(self, name: str) -> str | None:
        """Return what an instruction says that may be given again, the last time."""
        found = [line.removeprefix(f"{name} ") for line in self.lines if line.startswith(f"{name} ")]
        return found[-1] if found else None


def read_dockerfile() -> Mapping[str, Stage]:
    """Return the stages by name, in order."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    for part in re.split(r"^FROM ", text.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
        first, *lines = [re.sub(r"\s+", " ", line) for line in part.splitlines() if line.strip()]
        base, _, name = first.split()
        stages[name] = Stage(name, base, (*(stages[base].lines if base in stages else ()), *lines))
    return stages


def assemble(stage: Stage, folder: Path) -> None:
    """Copy into the folder what the stage copies from the build's context, which .dockerignore lets through."""
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    for line in stage.lines:
        if line.startswith("COPY ") and "--from" not in line:
            *sources, target = line.split()[1:]
            for source in sources:
                assert f"!{source}" in ignored, f"the builder is not sent {source}"
                path = REPOSITORY / source
                if path.is_dir():
                    shutil.copytree(path, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(path, folder / target)
