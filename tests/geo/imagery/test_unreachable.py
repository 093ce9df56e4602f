"""Services that misbehave end a stage within the limit, with one message."""

import contextlib
import functools
import json
import re
import socket
import threading
import time

import pytest

from geo.errors import InputError, UnavailableError
from geo.formats.stac import unlike_files
from geo.formats.stac_search import Search, search_items
from geo.imagery import remote, retries
from geo.imagery.discovery import find_acquisitions
from tests.builders.stac import item_of, shorten_waits

LIMIT_S = 1.0
EVERYTHING = Search(["sentinel-2-l2a"], None, None, None)
BYTES = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
RANGE = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/500\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    shorten_waits(monkeypatch)
    for name, seconds in {
        "LIMIT_S": LIMIT_S,
        "CONNECT_TIMEOUT_S": 0.2,
        "READ_TIMEOUT_S": 0.3,
    }.items():
        monkeypatch.setattr(retries, name, seconds)
    for cache in (remote._http_store, remote._azure_store, remote._tokens):
        cache.cache_clear()


class Serving:
    """Servers that give one answer to every connection."""

    def __init__(self):
        self.sockets = []
        self.connections = []

    def __call__(self, answer):
        listening = socket.create_server(("127.0.0.1", 0))
        self.sockets.append(listening)
        threading.Thread(target=self._accept, args=(listening, answer), daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    def _accept(self, listening, answer):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                self.connections.append(connection)
                threading.Thread(target=self._run, args=(connection, answer), daemon=True).start()

    def _run(self, connection, answer):
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            answer(connection)

    def full(self):
        """Return an address whose packets are dropped, because its queue is full."""
        full = socket.socket()
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        self.sockets += [full, *(socket.socket() for _ in range(4))]
        for waiting in self.sockets[-4:]:
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        return f"http://127.0.0.1:{full.getsockname()[1]}"


@pytest.fixture
def serve():
    serving = Serving()
    yield serving
    for opened in (*serving.sockets, *serving.connections):
        opened.close()


def silent(connection):
    """Accept, and never answer."""
    time.sleep(3 * LIMIT_S)


def drip(start, connection):
    """Send a byte now and then."""
    connection.sendall(start.encode())
    for _ in range(100):
        connection.sendall(b" ")
        time.sleep(0.05)


def drip_headers(connection):
    for letter in BYTES:
        connection.sendall(letter.encode())
        time.sleep(0.1)


def busy(status, connection):
    connection.sendall(
        f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    )


def html(connection):
    page = "<html>Sign in</html>"
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(page)}\r\n\r\n{page}".encode())


def refused(_):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def served(answer):
    return lambda serve: serve(answer)


# How a service fails: its address, and what the message says of a document and of a range.
FAILURES = {
    "refused": (refused, "Connection refused", "the connection failed"),
    "dropped packets": (Serving.full, "timed out", "the connection failed"),
    "unknown host": (lambda _: "http://nowhere.invalid", "resolve", "the connection failed"),
    "silent": (served(silent), "timed out", "TimedOut"),
    "drip of a body": (served(functools.partial(drip, BYTES)), "no whole answer within", None),
    "drip of a range": (served(functools.partial(drip, RANGE[:-7])), None, "the connection failed"),
    "drip of headers": (served(drip_headers), "no whole answer within", "TimedOut"),
    "503": (served(functools.partial(busy, "503 Service Unavailable")), "answered 503", "503"),
    "429": (served(functools.partial(busy, "429 Too Many Requests")), "answered 429", "429"),
    "TLS": (
        lambda serve: serve(html).replace("http", "https"), "SSL", "the connection failed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [name for name, case in FAILURES.items() if case[1]])
def test_a_document_that_does_not_come_ends_within_the_limit(serve, case):
    address, words, _ = FAILURES[case]
    started = time.monotonic()
    with pytest.raises(InputError, match=f"(?s)/api cannot be read as STAC .*{words}"):
        search_items(f"{address(serve)}/api", EVERYTHING)
    assert time.monotonic() - started < 1.3 * LIMIT_S


@pytest.mark.parametrize("case", [name for name, case in FAILURES.items() if case[2]])
def test_pixels_that_do_not_come_end_within_the_limit(serve, case):
    address, _, words = FAILURES[case]
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=f"cannot be read .*({words}).*Run it again when"):
        remote.read_bytes(f"{address(serve)}/B02.tif", (0, 10))
    assert time.monotonic() - started < 1.3 * LIMIT_S


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests"])
def test_there_is_one_loop_of_tries(serve, status, monkeypatch):
    monkeypatch.setattr(retries, "LIMIT_S", 5.0)
    with pytest.raises(InputError, match=f"answered {status}, after 6 retries"):
        search_items(f"{serve(functools.partial(busy, status))}/api", EVERYTHING)
    assert len(serve.connections) == retries.TRIES
    with pytest.raises(UnavailableError, match=f"{status}, after 6 retries"):
        remote.read_bytes(f"{serve(functools.partial(busy, status))}/B02.tif", (0, 10))
    assert len(serve.connections) == 2 * retries.TRIES


def test_a_page_in_place_of_json_is_named(serve):
    with pytest.raises(InputError, match="/api cannot be read as STAC"):
        search_items(f"{serve(html)}/api", EVERYTHING)


def items_at(folder, base, n, **options):
    """Return the acquisitions of n items whose files are below an address."""
    for day in range(n):
        item = item_of(f"201804{day + 1:02}", base)
        (folder / f"{day}.json").write_text(json.dumps(item))
    return find_acquisitions(folder, "stac", bands=["B02", "B03", "B8A"], **options)


@pytest.mark.parametrize("answer", [silent, functools.partial(busy, "503 Service Unavailable")])
def test_a_dead_service_is_waited_for_once_and_not_for_every_item(serve, tmp_path, answer):
    found = items_at(tmp_path, serve(answer), 28)
    started = time.monotonic()
    # Its acquisitions are not damaged: nothing is set aside.
    with pytest.raises(UnavailableError, match="Run it again when the service answers"):
        unlike_files(found, 4)
    assert time.monotonic() - started < 1.5 * LIMIT_S


def test_a_service_that_answers_again_is_asked_again(serve, monkeypatch):
    answers = iter([functools.partial(busy, "503 Service Unavailable")] * 7)
    good = RANGE + "0123456789"
    fine = lambda connection: connection.sendall(good.encode())  # noqa: E731
    address = serve(lambda connection: next(answers, fine)(connection))
    monkeypatch.setattr(retries, "LIMIT_S", 0.5)
    with pytest.raises(UnavailableError, match="503"):
        remote.read_bytes(f"{address}/a", (0, 10))
    with pytest.raises(UnavailableError, match=r"503.* is not asked again"):
        remote.read_bytes(f"{address}/b", (0, 10))
    time.sleep(0.6)
    list(answers)
    assert remote.read_bytes(f"{address}/b", (0, 10)) == (b"0123456789", 500)


TOKENS = {
    "refused": (refused, "does not answer .*Connection refused"),
    "silent": (served(silent), "does not answer .*timed out"),
    "drip": (served(functools.partial(drip, BYTES)), "does not answer .*no whole answer"),
    "503": (served(functools.partial(busy, "503 Service Unavailable")), "does not answer .*503"),
    "a page": (served(html), "sent something else than a token"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_tokens_that_do_not_come_end_within_the_limit(serve, tmp_path, monkeypatch, case):
    address, words = TOKENS[case]
    monkeypatch.setenv("PC_SDK_SAS_URL", f"{address(serve)}/token")
    base = "https://account.blob.core.windows.net/container"
    found = items_at(tmp_path, base, 28, signed_by="planetary_computer")
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=f"there is no token|{words}") as error:
        unlike_files(found, 4)
    assert re.search(words, str(error.value))
    assert time.monotonic() - started < 1.5 * LIMIT_S


def test_a_long_download_is_not_cut(serve):
    item = json.dumps(item_of("20180405", "https://host")).encode()
    body = b"".join([item, *[b" " * 10_000] * 24])

    def answer(connection):
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for start in range(0, len(body), 10_000):
            connection.sendall(body[start : start + 10_000])
            time.sleep(LIMIT_S / 16)

    assert len(search_items(f"{serve(answer)}/item.json", EVERYTHING)) == 1
