"""A fleet's plan made ready for one server: every step with its fingerprint, and all that the agent needs to run it.

``Plan`` is the wire format that ``agent/agent.py`` reads (it has no models of its own: change both together).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Content(_Wire):
    """Where a release's manifest and packs can be fetched without credentials."""

    manifest_url: str
    manifest_sha256: str
    packs: dict[str, str] = Field(default_factory=dict)
    """Pack digest to URL."""


class PlannedStep(_Wire):
    """One step. Which fields are set follows from ``kind``."""

    step: str
    kind: Literal["run", "sync", "check"]
    fingerprint: str
    """SHA-256 in hex over all that the step depends on; a ledger entry with the same one means: nothing to do."""
    needs: tuple[str, ...] = ()
    timeout_s: float
    why: str = ""
    script: str = ""
    environment: dict[str, str] = Field(default_factory=dict)
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
    steps: tuple[PlannedStep, ...]
