"""A local HTTP server whose answers fail on request, and scenes with their STAC items for it."""

import http.server
import json
import re
import socket
import threading
import time
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import rasterio
import rasterio.shutil
from affine import Affine

from geo.imagery import retries

METRES = {"B02": 10, "B03": 10, "B8A": 20, "SCL": 20}
COMMON = {"B02": "blue", "B03": "green", "B8A": "nir08", "SCL": "scl"}
SIZE = 384
BLOCK = 128
ORIGIN = (500_000, 5_600_000)
SILENCE_S = 5.0


def shorten_waits(monkeypatch):
    """Let failed requests be repeated almost at once."""
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.04)
    # Another test may have had the same port.
    monkeypatch.setattr(retries, "_given_up", {})


class Server:
    """Serve a folder with range requests, tokens below /sas/, and a STAC API over `items`.

    `faults(number, repeat)` returns the fault of an answer: None, 503, dropped (no answer), silent
    (no answer for `SILENCE_S`), short (the body is cut), or shorter (the body is cut, and the
    length in the header agrees). `number` counts the answers, `repeat` the earlier requests for
    the same.
    """

    def __init__(self, root):
        self.root = Path(root)
        self.items = []
        self.log = []
        self.faults = lambda *_: None
        self.supports_ranges = True
        self.retry_after = None
        self.etag = None
        self.shift = 0  # bytes between the requested start and the sent one
        self.requests = []
        self.needs_query = False
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"server_": self})
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def fault_of(self, request):
        with self.lock:
            self.requests.append(request)
            return self.faults(len(self.requests) - 1, self.requests.count(request) - 1)

    @property
    def bytes_sent(self):
        return sum(entry["bytes"] for entry in self.log)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        parts = urlsplit(self.path)  # a proxy receives absolute addresses
        path = unquote(parts.path).lstrip("/")
        if path.startswith("api"):
            self.api(path, {name: value[0] for name, value in parse_qs(parts.query).items()})
            return
        if path.startswith("sas/"):
            body = {"msft:expiry": "2999-01-01T00:00:00Z", "token": "sig=SECRET"}
            self.answer(json.dumps(body).encode(), path)
            return
        file = self.server_.root / path
        if not file.is_file():
            self.send_error(404)
        elif self.server_.needs_query and not parts.query:
            self.send_error(403)
        else:
            self.file(file, path)

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.api(urlsplit(self.path).path.lstrip("/"), json.loads(self.rfile.read(length)))

    def file(self, file, path):
        content = file.read_bytes()
        extent = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if extent is None or not self.server_.supports_ranges:
            self.answer(content, path)
            return
        start, last = int(extent[1]) + self.server_.shift, min(int(extent[2]), len(content) - 1)
        span = f"bytes {start}-{last}/{len(content)}"
        self.answer(content[start : last + 1], path, 206, {"Content-Range": span})

    def answer(self, body, path, status=200, headers=None):
        headers = headers or {}
        fault = self.server_.fault_of((path, headers.get("Content-Range"), len(body)))
        self.server_.log.append(
            {"path": path, "fault": fault, "bytes": len(body), "headers": dict(self.headers)}
        )
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            if self.server_.retry_after:
                self.send_header("Retry-After", self.server_.retry_after)
            self.end_headers()
            return
        if fault in ("dropped", "silent"):
            self.close_connection = True
            if fault == "silent":
                time.sleep(SILENCE_S)
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if self.server_.etag:  # as Azure sends them always
            date = "Mon, 01 Jan 2018 00:00:00 GMT"
            headers = {**headers, "ETag": self.server_.etag, "Last-Modified": date}
        whole = len(body)
        if fault in ("short", "shorter"):
            body = body[: whole // 3]
            self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if fault == "shorter" else whole))
        self.end_headers()
        self.wfile.write(body)

    def api(self, path, query):
        """Answer as a STAC API: landing page, collections, and search with two items a page."""
        root = f"{self.server_.url}/api"
        if path.rstrip("/") == "api":
            body = {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "api",
                "description": "A test",
                "conformsTo": [
                    "https://api.stacspec.org/v1.0.0/core",
                    "https://api.stacspec.org/v1.0.0/item-search",
                    "https://api.stacspec.org/v1.0.0/collections",
                ],
                "links": [
                    {"rel": "self", "href": root},
                    {"rel": "root", "href": root},
                    {"rel": "data", "href": f"{root}/collections"},
                    {"rel": "search", "href": f"{root}/search", "method": "POST",
                     "type": "application/geo+json"},
                ],
            }  # fmt: skip
        elif path == "api/collections":
            body = {"collections": [{"id": "sentinel-2-l2a"}, {"id": "landsat"}], "links": []}
        elif path == "api/search":
            body = self.search(query, f"{root}/search")
        else:
            self.send_error(404)
            return
        self.answer(json.dumps(body).encode(), path)

    def search(self, query, address):
        west, south, east, north = query.get("bbox", (-180, -90, 180, 90))
        first, last = (query.get("datetime") or "../..").split("/")
        found = [
            item
            for item in self.server_.items
            if item["collection"] in query["collections"]
            and item["bbox"][0] <= east and item["bbox"][2] >= west
            and item["bbox"][1] <= north and item["bbox"][3] >= south
            and (first == ".." or item["properties"]["datetime"] >= first)
            and (last == ".." or item["properties"]["datetime"] <= last)
        ]  # fmt: skip
        page = int(query.get("page", 0))
        links = []
        if len(found) > 2 * (page + 1):
            links = [{"rel": "next", "href": address, "method": "POST",
                      "body": {**query, "page": page + 1}}]  # fmt: skip
        return {
            "type": "FeatureCollection",
            "features": found[2 * page : 2 * page + 2],
            "links": links,
        }


def write_scene(folder, generator, day, ending=".tif"):
    """Write the files of one acquisition, B02.tif and so on, into a folder of the day."""
    target = Path(folder) / day
    target.mkdir(parents=True)
    for name, metres in METRES.items():
        shape = (SIZE * 10 // metres,) * 2
        if name == "SCL":
            values = generator.choice([4, 5, 8, 9], shape, p=[0.5, 0.3, 0.1, 0.1]).astype("uint8")
        else:
            values = generator.integers(1_000, 10_000, shape).astype("uint16")
        plain = target / "plain.tif"
        with rasterio.open(
            plain, "w", driver="GTiff", count=1, height=shape[0], width=shape[1],
            dtype=values.dtype, crs="EPSG:32631", nodata=0, transform=transform_of(metres),
        ) as raster:  # fmt: skip
            raster.write(values, 1)
        options = {"driver": "COG", "blocksize": BLOCK, "compress": "deflate"}
        if ending == ".jp2":
            options = {"driver": "JP2OpenJPEG", "quality": 100, "reversible": "YES",
                       "blockxsize": BLOCK, "blockysize": BLOCK}  # fmt: skip
        rasterio.shutil.copy(plain, target / f"{name}{ending}", **options)
        plain.unlink()


def transform_of(metres):
    return Affine(metres, 0, ORIGIN[0], 0, -metres, ORIGIN[1])


def item_of(day, base, ending=".tif"):
    """Make the item of a scene whose files are in the folder or address `base`."""
    sensed = datetime.strptime(day, "%Y%m%d")
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"S2A_31UES_{day}_0_L2A",
        "collection": "sentinel-2-l2a",
        "bbox": [3.0, 50.5, 3.06, 50.56],
        "geometry": None,
        "properties": {
            "datetime": f"{sensed:%Y-%m-%d}T10:50:31.024Z",
            "platform": "sentinel-2a",
            "proj:epsg": 32631,
            "grid:code": "MGRS-31UES",
            "eo:cloud_cover": 20.0,
            "s2:processing_baseline": "03.01",
        },
        "links": [],
        "assets": {
            COMMON[name]: {
                "href": f"{base}/{day}/{name}{ending}",
                "type": "image/jp2" if ending == ".jp2" else "image/tiff; application=geotiff",
                "proj:shape": [SIZE * 10 // metres] * 2,
                "proj:transform": list(transform_of(metres))[:6],
            }
            for name, metres in METRES.items()
        },
    }
