"""The command `serve`: show the report of a run in a browser, with a map of any size."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from geo.errors import InputError
from pipeline.workflow.paths import RunPaths

# The only names of this machine that are answered: another page may not read the register by a name
# that it lets point here (DNS rebinding).
OWN_NAMES = {"localhost", "127.0.0.1"}
CHUNK = 1 << 16


def serve(arguments: Sequence[str]) -> None:
    """Serve the report of a run on this machine alone, until Ctrl-C.

    Parameters
    ----------
    arguments
        The arguments after the command.

    Raises
    ------
    InputError
        If the run has no report, or the port cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="parcelwise serve",
        description="Show the report of a run in a browser. A large map needs it: a page that is "
        "opened from the disk cannot read parts of a file. Only this machine is answered.",
    )
    parser.add_argument("run", metavar="RUN", help="name of the run, or its folder results/RUN")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parsed = parser.parse_args(arguments)
    with make_server(report_of(parsed.run), parsed.port) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends)\n")
        sys.stdout.flush()
        server.serve_forever()


def report_of(run: str) -> Path:
    """Return the report of a run, named by its name or its folder.

    Raises
    ------
    InputError
        If there is none.
    """
    pages = [paths.report for paths in (RunPaths(Path(run)), RunPaths.of(run))]
    for page in pages:
        if page.is_file():
            return page
    raise InputError(
        f"There is no report of the run {run}: neither {pages[0]} nor {pages[1]}. Name the run or "
        "its folder, and call this where results/ is. `parcelwise run FILE` writes the report."
    )


def make_server(page: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of the folder of a page; `port` 0 takes any free one.

    Raises
    ------
    InputError
        If the port cannot be used.
    """
    handler = partial(_Handler, page=page.name, directory=str(page.parent))
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"The port {port} cannot be used: {error}. Choose another one: --port 8001."
        ) from error


class _Handler(SimpleHTTPRequestHandler):
    """Answer requests of files and of a range of their bytes, but list no folder."""

    def __init__(self, *arguments: Any, page: str, directory: str) -> None:
        self._page = page
        self._n_bytes: int | None = None
        super().__init__(*arguments, directory=directory)

    def send_head(self) -> Any:
        """Send the head of an answer; return the open file to copy, at its place."""
        self._n_bytes = None
        if self.headers.get("Host", "").rpartition(":")[0] not in OWN_NAMES:
            return self.send_error(HTTPStatus.FORBIDDEN)
        if self.path.partition("?")[0] == "/":
            self.path = f"/{self._page}"
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            return self.send_error(HTTPStatus.NOT_FOUND)
        found = re.fullmatch(r"bytes=(\d{1,18})-(\d{1,18})?", self.headers.get("Range", ""))
        if found is None or not path.is_file():
            return super().send_head()
        size, first = path.stat().st_size, int(found[1])
        last = min(int(found[2]) if found[2] else size, size - 1)
        if not first <= last:
            return self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        file = path.open("rb")
        file.seek(first)
        self._n_bytes = last - first + 1
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(self._n_bytes))
        self.end_headers()
        return file

    def end_headers(self) -> None:
        """Add what holds for every answer: parts can be asked for, and a new report is shown."""
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Copy a file, or the range of it that was asked for."""
        if self._n_bytes is None:
            super().copyfile(source, outputfile)
        else:
            _copy(source, outputfile, self._n_bytes)

    def log_message(self, *_: Any) -> None:
        """Write nothing to the terminal."""


def _copy(source: BinaryIO, target: BinaryIO, n_bytes: int) -> None:
    """Copy a number of bytes."""
    while n_bytes > 0 and (part := source.read(min(n_bytes, CHUNK))):
        target.write(part)
        n_bytes -= len(part)
