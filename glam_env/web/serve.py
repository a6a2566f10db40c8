"""A local server for a site, to try it before it is published."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from glam_env.errors import GlamError

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    # The types of the machine are not used, since one may be missing.
    extensions_map = {  # noqa: RUF012
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".json": "application/json",
        ".wasm": "application/wasm",
        ".png": "image/png",
        ".txt": "text/plain; charset=utf-8",
        "": "application/octet-stream",
    }

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for a request."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of a folder on this machine alone; port 0 takes a free one.

    Raises:
        GlamError: The port is taken or not allowed.
    """
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise GlamError(f"cannot listen on port {port} ({error}); choose another --port") from error
