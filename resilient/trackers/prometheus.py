"""Figures for Prometheus: in a file for the node exporter, or at a port of this machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from resilient.protocol.paths import RunPaths
from resilient.supervisor.status import Status
from resilient.trackers.details import Details
from resilient.trackers.exposition import exposition
from resilient.trackers.figures import Figures
from resilient.trackers.tracker import Context, Tracker

_FRESH_SECONDS = 15.0  # the file's age tells whether anybody is there to write it
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Prometheus(Tracker):
    """Keeps the text ready; it is as it was at the last look."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._paths = context.paths
        settings = context.settings.prometheus
        self._file = Path(settings.textfile) if settings.textfile else None
        self._figures = Figures(self._paths.run_id, self.state)
        self._text, self._written_at = "", 0.0
        self._server = _serve(settings.port, lambda: self._text) if settings.port else None

    def resume(self, state: Mapping[str, Any]) -> None:
        super().resume(state)
        self._figures = Figures(self._paths.run_id, self.state)

    def told(self, details: Details) -> None:
        self._figures.count(details)

    def flush(self) -> None:
        text = exposition(self._figures.families(Status.read(self._paths.status)))
        if text == self._text and time.monotonic() - self._written_at < _FRESH_SECONDS:
            return
        self._text, self._written_at = text, time.monotonic()
        if self._file is not None:
            fresh = RunPaths.fresh(self._file).with_suffix(f".{os.getpid()}")  # the collector reads *.prom alone
            fresh.write_text(text)
            fresh.replace(self._file)

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _serve(port: int, text: Any) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text().encode() if self.path.split("?")[0] == "/metrics" else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", _TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, name="prometheus endpoint", daemon=True).start()
    return server
