"""Runs LocalStack on loopback only, and for no longer than somebody holds its standard input open.

LocalStack 4.13.1 listens on every address, whatever host GATEWAY_LISTEN names (``TODO: interface = host?`` in its
``runtime/server/twisted.py``). So every socket that this process binds is bound to 127.0.0.1 instead. Run it with the
interpreter of LocalStack's own environment.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from threading import Thread
from typing import Any

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class _LoopbackSocket(socket.socket):
    def bind(self, address: Any, /) -> None:
        if self.family in LOOPBACK:
            address = (LOOPBACK[self.family], *address[1:])
        super().bind(address)


def _end_with_standard_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    socket.socket = _LoopbackSocket  # type: ignore[misc]
    Thread(target=_end_with_standard_input, daemon=True).start()
    runpy.run_module("localstack.runtime.main", run_name="__main__")
