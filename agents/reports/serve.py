"""The page of runs while they train: a server for this machine alone, whose page renews itself.

It answers on the loopback interface only, to requests for that host by name (a page of another
site that resolves to this machine gets nothing), and has nothing but the page, a version that
changes with the files of the runs, and those files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

from agents.records.folder import RunFolder
from agents.records.view import read_run
from agents.reports.page import raw_files
from agents.reports.run_page import run_page
from agents.reports.runs_page import run_entries, runs_page

HOST = "127.0.0.1"
"""Where the server listens."""


_FILES = "files/"


class ReportServer(ThreadingHTTPServer):
    """Serves the page of one run, or of several.

    Args:
        runs: folders of runs, begun or finished.
        port: 0 for any that is free.

    Raises:
        ValueError: if a folder holds no run, a file in it is not what a run writes, or the port is
            taken.
    """

    daemon_threads = True

    def __init__(self, runs: Sequence[Path], port: int) -> None:
        self.runs = [run.resolve() for run in runs]
        self._lock, self._version, self._page = Lock(), "", ""
        self.page()
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError):
            raise ValueError(
                f"Expected a free port, got {port}: give another one by --port, or 0 for any."
            ) from None

    @property
    def address(self) -> str:
        """Where a browser of this machine finds the page."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def version(self) -> str:
        """Return a text that is another one once a file of a run has changed."""
        digest = hashlib.sha256()
        for path in self.files().values():
            if path.is_file():
                facts = path.stat()
                digest.update(f"{path} {facts.st_mtime_ns} {facts.st_size}\n".encode())
        return digest.hexdigest()[:16]

    def files(self) -> dict[str, Path]:
        """Return the raw files by the addresses that the page has for them."""
        if len(self.runs) == 1:
            return {path.name: path for path in raw_files(RunFolder(self.runs[0]))}
        return {
            f"{place}/{path.name}": path
            for place, run in enumerate(self.runs)
            for path in raw_files(RunFolder(run))
        }

    def page(self) -> str:
        """Return the page as of now; made anew only if a file has changed."""
        with self._lock:
            version = self.version()
            if version != self._version:
                if len(self.runs) == 1:
                    self._page = run_page(read_run(self.runs[0]), self.runs[0], _FILES)
                else:
                    self._page = runs_page(run_entries(self.runs), Path(), served=_FILES)
                self._version = version
            return self._page


class _Handler(BaseHTTPRequestHandler):
    @property
    def reports(self) -> ReportServer:
        """The server that the request came to."""
        assert isinstance(self.server, ReportServer)
        return self.server

    def do_GET(self) -> None:
        """Answer a browser."""
        port = self.reports.server_address[1]
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"Expected a request to this host.\n")
            return
        name = self.path.partition("?")[0].removeprefix("/")
        if name == "version":
            self._answer(HTTPStatus.OK, "text/plain", self.reports.version().encode())
        elif name == "":
            self._page()
        else:
            self._file(name)

    def _file(self, name: str) -> None:
        """Answer with a file that the page names; a path is looked up, never followed."""
        path = self.reports.files().get(name.removeprefix(_FILES))
        if path is None or not name.startswith(_FILES) or not path.is_file():
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"Expected a file of a run.\n")
        else:
            self._answer(HTTPStatus.OK, "text/plain", path.read_bytes())

    def _page(self) -> None:
        try:
            content = self.reports.page().encode("utf-8", errors="replace")
        except (ValueError, OSError) as error:
            message = f"{error}\n".encode("utf-8", errors="replace")
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", message)
            return
        self._answer(HTTPStatus.OK, "text/html", content)

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests are no news."""


def serve(runs: Sequence[Path], port: int) -> None:
    """Serve the page of runs until it is interrupted.

    Raises:
        ValueError: as `ReportServer` does.
    """
    with ReportServer(runs, port) as server:
        print(f"{server.address} shows the page while it changes; Ctrl-C ends.", flush=True)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print()
