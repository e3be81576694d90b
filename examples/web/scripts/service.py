#!/usr/bin/env python3
"""Bring the database's schema up to date, have the server started at boot, and start it anew from what was built.

Writes var/lib/web/web.db, srv/build/start and etc/rc.local. The server that is running, whoever started it, holds the
lock on run/web.pid: so it is found without trusting a number that an image may have brought along.
"""

import fcntl
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(os.environ.get("SERVER_ROOT") or "/")
ADDRESS = os.environ.get("ADDRESS") or "127.0.0.1"
MIGRATIONS = ROOT / "srv/monolith/migrations"
DATABASE = ROOT / "var/lib/web/web.db"
RELEASE = ROOT / "srv/build/release.json"
START = ROOT / "srv/build/start"
PID_FILE = ROOT / "run/web.pid"
LOG = ROOT / "var/log/web.log"
STOP_SECONDS = 15  # longer than the server's own 10 seconds for the slowest request
START_SECONDS = 20
TRIES = 3  # the server that boot starts may take the lock just after we found it free

START_SCRIPT = f"""#!/bin/sh
# Starts the web server in a session of its own. Written by the service step.
root=${{SERVER_ROOT:-}}
root=${{root%/}}
mkdir -p "$root/run" "$root/var/log" && cd "$root/" || exit 1
setsid nohup {shlex.quote(sys.executable)} "$root/srv/build/app/server.pyc" </dev/null >>"$root/var/log/web.log" 2>&1 &
"""

RC_LOCAL = """#!/bin/sh
# Run at boot. Written by the service step.
exec "${SERVER_ROOT:-}/srv/build/start"
"""


def write_script(path: Path, text: str) -> None:
    """Write the whole executable file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.chmod(0o755)
    os.replace(fresh, path)


def migrate() -> int:
    """Apply the migrations that the database does not have yet, each whole or not at all; return how many."""
    DATABASE.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(DATABASE, isolation_level=None)
    database.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY)")
    applied = {number for (number,) in database.execute("SELECT number FROM migrations")}
    due = [path for path in sorted(MIGRATIONS.glob("*.sql")) if int(path.stem) not in applied]
    for path in due:
        apply(database, path)
    database.close()
    return len(due)


def apply(database: sqlite3.Connection, path: Path) -> None:
    """Apply one migration. Exits when it can not be."""
    try:
        database.executescript(
            f"BEGIN;\n{path.read_text()}\nINSERT INTO migrations VALUES ({int(path.stem)});\nCOMMIT;"
        )
    except sqlite3.Error as mistake:
        sys.exit(f"service: migrations/{path.name}: {mistake}")


def running() -> int | None:
    """Return the process id of the server that holds the lock, or None when there is none."""
    try:
        file = PID_FILE.open("r")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0)  # empty for the moment between locking and writing
        return None


def stop() -> None:
    """End the running server: politely, and by force when it takes too long."""
    deadline = time.monotonic() + STOP_SECONDS
    asked = None
    while (pid := running()) is not None:
        late = time.monotonic() > deadline
        if pid and (late or pid != asked):
            end(pid, signal.SIGKILL if late else signal.SIGTERM)
            asked = pid
        time.sleep(0.05)


def end(pid: int, how: signal.Signals) -> None:
    """Send the signal, if the process is there and is our server: the number may be one that an image brought along."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if os.fsencode(ROOT / "srv/build/app/server.pyc") in words:
            os.kill(pid, how)
    except (FileNotFoundError, ProcessLookupError):
        return


def answered_version() -> str | None:
    """Return the version that the health page names, or None while it does not answer 200."""
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}:8080/health", timeout=5) as answer:
            return str(json.load(answer)["monolith"])
    except (OSError, urllib.error.URLError):
        return None


def start(version: str) -> bool:
    """Start the server; return whether it came to serve this version."""
    subprocess.run([START], check=True)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        answered = answered_version()
        if answered is not None:
            return answered == version
        time.sleep(0.05)
    return False


def main() -> None:
    """Do all of it; exits with the end of the server's log when the server does not come up."""
    print(f"{migrate()} migrations applied")
    write_script(START, START_SCRIPT)
    write_script(ROOT / "etc/rc.local", RC_LOCAL)
    version = json.loads(RELEASE.read_text())["version"]
    for _ in range(TRIES):
        stop()
        if start(version):
            print(f"serving {version}")
            return
    log = LOG.read_text(errors="replace").splitlines() if LOG.exists() else []
    sys.exit("\n".join([*log[-20:], f"service: the server does not come up with version {version}"]))


if __name__ == "__main__":
    main()
