"""A fleet's plan made ready for one server: every step with its fingerprint, and all that the agent needs to run it.

``Plan`` is the wire format that ``agent/agent.py`` reads (it has no models of its own: change both together).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Delta(_Wire):
    """Where a delta can be fetched (``shared.deltas``), and the SHA-256 of its bytes."""

    url: str
    sha256: str


class Content(_Wire):
    """Where a release's manifest and packs can be fetched without credentials."""

    manifest_url: str
    manifest_sha256: str
    packs: dict[str, str] = Field(default_factory=dict)
    """Pack digest to URL."""
    deltas: dict[str, Delta] = Field(default_factory=dict)
    """By the SHA-256 of the manifest of the release that the delta starts from."""


class Tries(_Wire):
    """How often a step is tried, and for how long it rests between two tries."""

    tries: int = 1
    pause_s: float = 0.0


class PlannedStep(_Wire):
    """One step. Which fields are set follows from ``kind``."""

    step: str
    kind: Literal["run", "sync", "check"]
    fingerprint: str
    """SHA-256 in hex over all that the step depends on; a ledger entry with the same one means: nothing to do."""
    parts: dict[str, str] = Field(default_factory=dict)
    """What the fingerprint is made of (``shared.planning``); kept with the result, to tell later what has changed."""
    needs: tuple[str, ...] = ()
    timeout_s: float
    """Of each try."""
    retry: Tries = Tries()
    why: str = ""
    script: str = ""
    environment: dict[str, str] = Field(default_factory=dict)
    user: str | None = None
    component: str = ""
    version: str = ""
    to: str = ""
    content: Content | None = None
    url: str = ""


class Plan(_Wire):
    """What is sent to one server for one attempt."""

    form: Literal[1] = 1
    fleet: str
    server: str
    attempt: str
    address: str
    report_url: str
    parallel: int = 1
    """How many steps run at once; each begins once those that it needs are done."""
    steps: tuple[PlannedStep, ...]
