"""What the demo shows: a live table of servers on a terminal, plain lines where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ops.demo.journal import Journal, ServerLine
from shared.clock import Clock

HEARTBEAT_S = 15.0
"""Without a terminal, a silence this long gets a line that says what is being waited for."""

LINGER_S = 8.0
"""How long a server that is gone stays in the table."""

_COLOURS = {"in service": "green", "ready": "green", "failed": "bold red", "aside": "yellow", "terminated": "dim"}


@dataclass
class Screen:
    """Shows the journal. ``console`` decides on colour and on whether there is a terminal (NO_COLOR and CI count)."""

    journal: Journal
    clock: Clock
    console: Console = field(default_factory=lambda: Console(highlight=False))
    stage: str = ""
    waiting_for: str = ""
    pointer: str = ""
    wanted: str = ""
    _told: int = 0
    _live: Live | None = None

    def __post_init__(self) -> None:
        self._began = self._last = self.now()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self.clock.now().timestamp()

    def __enter__(self) -> Screen:
        """Take the terminal, where there is one."""
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        if self._live:
            self._live.stop()
            self._live = None

    def refresh(self) -> None:
        """Tell what is new, and redraw the table."""
        for line in self.journal.lines[self._told :]:
            self.say(line.text, "bold red" if line.loud else "", at=line.at)
        self._told = len(self.journal.lines)
        if self._live:
            self._live.update(self._table())
        elif self.now() - self._last > HEARTBEAT_S:
            self.say(f"... still waiting for {self.waiting_for}")

    def say(self, text: str, style: str = "", *, at: float | None = None) -> None:
        """Print one line with the seconds since the demo began."""
        self._last = self.now()
        self.console.print(Text(f"{(at or self._last) - self._began:6.1f}  ").append(text, style), soft_wrap=True)

    def headline(self, text: str) -> None:
        """Begin a stage."""
        self.stage = text
        self.console.print()
        self.console.print(Text(text, "bold cyan"), soft_wrap=True)

    def _table(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("server", "role", "state", "image", "step", "seconds"):
            table.add_column(title, justify="right" if title == "seconds" else "left", no_wrap=True)
        now = self.now()
        for server in _shown(list(self.journal.servers.values()), now):
            table.add_row(*_row(server, now))
        foot = Text(f"pointer {self.pointer or 'stock image'}   {self.wanted}   waiting for {self.waiting_for}", "dim")
        return Group(Text(""), table, foot)


def _shown(servers: Sequence[ServerLine], now: float) -> list[ServerLine]:
    return [server for server in servers if not server.gone or now - server.marks["terminated"] < LINGER_S]


def _row(server: ServerLine, now: float) -> tuple[Text, ...]:
    state = server.state
    since = server.marks.get("pending", now)
    until = server.marks.get("in service") or server.marks.get("terminated") or now
    cells = (server.server, server.role, state, server.image, server.step, f"{until - since:.1f}")
    return tuple(Text(cell, _COLOURS.get(state, "")) for cell in cells)
