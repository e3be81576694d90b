"""An S3 server for ``aws s3 sync``: folders as buckets, listed and read. ``python -m bench.s3_stub ROOT PORT``."""

from __future__ import annotations

import http.server
import os
import sys
import urllib.parse
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import escape

from bench.serving import send_file

PAGE = 1000


class Buckets(http.server.ThreadingHTTPServer):
    """Serves the folders of a root; a bucket's files are listed once, in the order that S3 lists them in."""

    def __init__(self, root: Path, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.root = root
        self._listed: dict[str, list[str]] = {}

    def listed(self, bucket: str) -> list[str]:
        """Return an entry of ListObjectsV2 for each of a bucket's files; links are none."""
        if bucket not in self._listed:
            top = self.root / bucket
            paths = (Path(folder, name) for folder, _, names in os.walk(top) for name in names)
            files = {path.relative_to(top).as_posix(): path for path in paths if not path.is_symlink()}
            self._listed[bucket] = [_entry(key, files[key]) for key in sorted(files)]
        return self._listed[bucket]


def _entry(key: str, path: Path) -> str:
    status = path.stat()
    changed = datetime.fromtimestamp(status.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{escape(urllib.parse.quote(key))}</Key><LastModified>{changed}</LastModified>"
        f"<ETag>&quot;0&quot;</ETag><Size>{status.st_size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Buckets
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """List a page of a bucket, or send a file or a part of it."""
        asked = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(asked.path).strip("/")
        if "/" in path:
            send_file(self, self.server.root / path, lambda count: None)
        else:
            self._send_page(path, urllib.parse.parse_qs(asked.query))

    def _send_page(self, bucket: str, asked: dict[str, list[str]]) -> None:
        entries = self.server.listed(bucket)
        first = int(asked.get("continuation-token", ["0"])[0])
        more = first + PAGE < len(entries)
        text = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix></Prefix><EncodingType>url</EncodingType><MaxKeys>{PAGE}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>"
            + (f"<NextContinuationToken>{first + PAGE}</NextContinuationToken>" if more else "")
            + "".join(entries[first : first + PAGE])
            + "</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Buckets(Path(sys.argv[1]), int(sys.argv[2])).serve_forever()
