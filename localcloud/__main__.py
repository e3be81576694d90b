"""``python -m localcloud``: run the local cloud. ``python -m localcloud stop``: end it, and all it left."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from localcloud import lifecycle

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 4566
DEFAULT_STATE = Path(".localcloud")


def main(arguments: list[str]) -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m localcloud", description="AWS on one machine.")
    parser.add_argument("command", nargs="?", choices=("run", "stop"), default="run")
    parser.add_argument("--host", default=DEFAULT_HOST, help="the address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="where to listen (default: %(default)s); 0 takes a free one"
    )
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="folder for disks and logs")
    parser.add_argument(
        "--messages-endpoint",
        metavar="URL",
        help="an emulator that has the event bus, the queues and the topics instead: events and notifications go there",
    )
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "stop":
            lifecycle.stop(asked.state.absolute())
        else:
            lifecycle.run(asked.host, asked.port, asked.state.absolute(), asked.messages_endpoint)
    except lifecycle.CannotRun as reason:
        print(reason, file=sys.stderr)
        return 2
    return 0


sys.exit(main(sys.argv[1:]))
