"""Files over HTTP, whole or a part: what S3 does for a download, and nothing else."""

from __future__ import annotations

import http.server
import os
import re
from collections.abc import Callable
from pathlib import Path


def send_file(handler: http.server.BaseHTTPRequestHandler, path: Path, count: Callable[[int], None]) -> None:
    """Answer a GET with a file or the part of it that is asked for; ``count`` is told how many bytes, beforehand."""
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        first = int(span[1]) if span else 0
        end = min(int(span[2]) + 1, status.st_size) if span and span[2] else status.st_size
        count(end - first)
        handler.send_response(206 if span else 200)
        if span:
            handler.send_header("Content-Range", f"bytes {first}-{end - 1}/{status.st_size}")
        handler.send_header("Content-Length", str(end - first))
        handler.send_header("ETag", '"0"')
        handler.send_header("Last-Modified", handler.date_time_string(int(status.st_mtime)))
        handler.end_headers()
        if end > first:
            handler.connection.sendfile(stream, first, end - first)
