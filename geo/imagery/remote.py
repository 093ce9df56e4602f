"""Read remote files over HTTP, S3 and Azure, and open remote rasters.

obstore sends the requests, signs them, and retries failed connections and server errors. This
module adds what obstore does not do: it compares the length of every answer with the length that
was requested, and requests cut answers again.

GDAL could read remote files itself (/vsicurl/), but it takes an answer that ends early for the
content of the file: its JPEG 2000 driver then decodes wrong pixels without an error, and the cut
answer stays in its cache. GDAL therefore reads through `read_bytes`.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import obstore
import rasterio
import requests
from obstore.auth.planetary_computer import PlanetaryComputerCredentialProvider
from obstore.exceptions import (
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, HTTPStore, S3Store
from requests.adapters import HTTPAdapter
from requests.utils import get_auth_from_url, get_netrc_auth
from urllib3 import Retry

from geo.documents import LARGEST_JSON
from geo.errors import InputError
from geo.imagery.acquisition import PLANETARY_COMPUTER
from geo.imagery.networks import check_reach

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Credential

# urllib3 warns of every retry, with the whole address and so with its signature.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

# A request that fails is repeated, after waits that double from the first to the longest.
TRIES = 7
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 16.0
# No request is repeated later than this after its first try.
RETRY_FOR_S = 120.0

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0  # between two bytes
ANSWER_TIMEOUT_S = 600.0  # for one whole answer

# Longest wait that a server can ask for by the header Retry-After.
_LONGEST_RETRY_AFTER_S = 60
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)

_AGAIN = "Run it again when the service answers: finished files are kept."

Answer = TypeVar("Answer")


def without_signature(source: str) -> str:
    """Return an address without query and user, which may contain signatures and passwords."""
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _until_whole(request: Callable[[], Answer | None]) -> Answer | None:
    """Repeat a request until its answer is whole, at most `TRIES` times and for `RETRY_FOR_S`.

    Parameters
    ----------
    request
        Sends the request once and returns the answer, or None if the answer was cut.

    Returns
    -------
    Answer or None
        None if no answer was whole.
    """
    deadline = time.monotonic() + RETRY_FOR_S
    for number in range(TRIES):
        if number:
            time.sleep(min(FIRST_WAIT_S * 2 ** (number - 1), LONGEST_WAIT_S))
        answer = request()
        if answer is not None or time.monotonic() > deadline:
            return answer
    return None


class _TimedRetry(Retry):
    """urllib3's retries, but none later than `RETRY_FOR_S` after the start of the first try."""

    def __init__(self, *args: Any, started: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.started = started

    def new(self, **options: Any) -> _TimedRetry:
        """Return the retries that are left."""
        return super().new(started=self.started, **options)

    def is_exhausted(self) -> bool:
        """Return whether no try is left."""
        return super().is_exhausted() or time.monotonic() > self.started + RETRY_FOR_S


class _WholeAnswers(HTTPAdapter):
    """Transport of `requests` with timeouts and retries, which returns whole answers only.

    Parameters
    ----------
    source
        The catalogue that the settings name: see `geo.imagery.networks.check_reach`.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    def send(
        self, request: requests.PreparedRequest, *args: Any, **options: Any
    ) -> requests.Response:
        """Send a request until its answer is whole; those that follow redirects come here, too."""
        check_reach(str(request.url), self.source)
        options["timeout"] = CONNECT_TIMEOUT_S, READ_TIMEOUT_S
        self.max_retries = _TimedRetry(
            started=time.monotonic(),
            total=TRIES - 1,
            backoff_factor=FIRST_WAIT_S,
            backoff_max=LONGEST_WAIT_S,
            status_forcelist=_TEMPORARY,
            allowed_methods=None,  # a STAC search is a POST that changes nothing
            raise_on_status=False,  # the last answer says more than the number of tries
            retry_after_max=_LONGEST_RETRY_AFTER_S,
        )

        def whole() -> requests.Response | None:
            answer = super(_WholeAnswers, self).send(request, *args, **options)
            try:
                answer._content = _read_body(answer)
            except requests.exceptions.ChunkedEncodingError:
                return None
            return answer

        answer = _until_whole(whole)
        if answer is None:
            raise requests.ConnectionError("every answer ended too early")
        return answer


def _read_body(answer: requests.Response) -> bytes:
    """Read the body of an answer, unpacked, within the bounds of size and time."""
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    body = bytearray()
    # As large a part as a connection brings: an answer may be packed a thousandfold.
    for part in answer.iter_content(65_536):
        body += part
        if len(body) > LARGEST_JSON or time.monotonic() > deadline:
            answer.close()
            raise requests.RequestException(
                f"the answer has more than {LARGEST_JSON:,} bytes or takes longer than "
                f"{ANSWER_TIMEOUT_S:g} s"
            )
    return bytes(body)


def web_session(source: str = "") -> requests.Session:
    """Return a session for documents and tokens, which repeats requests as `read_bytes` does.

    Parameters
    ----------
    source
        Path or address of the catalogue that the settings name.
    """
    session = requests.Session()
    session.mount("https://", _WholeAnswers(source))
    session.mount("http://", _WholeAnswers(source))
    return session


def read_bytes(source: str, extent: tuple[int, int] | None = None) -> tuple[bytes, int]:
    """Read a file, or a range of its bytes, and the length of the file.

    Parameters
    ----------
    source
        Address of the file.
    extent
        Start and stop of the range; a stop beyond the end of the file means its end.

    Raises
    ------
    InputError
        If the file does not exist, cannot be read after the last try, or the server does not
        support range requests.
    """

    def request() -> tuple[bytes, int] | None:
        store, path = _locate(source)
        answer = obstore.get(store, path, options={"range": extent} if extent else None)
        size = answer.meta["size"]
        start, stop = extent or (0, size)
        try:
            content = answer.bytes().to_bytes()
        except BaseError:
            # obstore resumes an answer that breaks off only if the server sends an ETag.
            return None
        return (content, size) if len(content) == min(stop, size) - start else None

    shown = without_signature(source)
    try:
        answer = _until_whole(request)
    except (BaseError, FileNotFoundError, ValueError) as error:
        # obstore's messages contain the whole address: the signature must not reach the log.
        raise InputError(_explain(shown, error)) from None
    if answer is None:
        raise InputError(f"{shown} cannot be read (every answer ended too early). {_AGAIN}")
    return answer


def _explain(shown: str, error: Exception) -> str:
    """Return the message for the user about an error of obstore."""
    # "Generic HTTP error: Error performing GET {address} in 1 s, after 6 retries, ... - {cause}:
    # {the server's page}", and below it the chain of errors, of which the innermost comes last.
    line, _, chain = str(error).partition("\n")
    if status := re.search(r"status code: (\d{3}[A-Za-z ]*)", line):
        reason = status[1].strip()
    elif line.endswith("HTTP error: error sending request"):
        causes = re.findall(r'"[^"]+"|\b[A-Z]\w+(?=,?\n)', chain)
        reason = f"the connection failed: {causes[-1]}"
    else:
        reason = re.sub(r"\?\S*", "", line)
    if retries := re.search(r", after \d+ retries", line):
        reason += retries[0]
    if isinstance(error, ValueError):
        return f"{shown} is not a valid address ({reason})."
    if isinstance(error, FileNotFoundError):
        return (
            f"{shown} does not exist ({reason}). Check its address, or search the imagery again: "
            "snakemake -R index."
        )
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return (
            f"Access to {shown} is refused ({reason}). Set imagery.sign, or the credentials of the "
            "service in the environment (README, STAC). S3 also refuses access to files that do "
            "not exist."
        )
    if isinstance(error, NotSupportedError):
        return (
            f"{shown}: the server does not support range requests, it sends whole files only. Copy "
            "the imagery to a disk and read it there."
        )
    return f"{shown} cannot be read ({reason}). {_AGAIN}"


def _locate(source: str) -> tuple[ObjectStore, str]:
    """Return the store that contains a remote file, and the path of the file in the store.

    Parameters
    ----------
    source
        https:// or http://; s3://bucket/key; planetary-computer+https://, which is an address that
        needs a token of the Planetary Computer.

    Raises
    ------
    InputError
        If addresses of this kind are not supported, or the S3 service is not set.
    """
    needs_token = source.startswith(PLANETARY_COMPUTER)
    address = source.removeprefix(PLANETARY_COMPUTER)
    parts = urlsplit(address)
    if parts.scheme == "s3":  # a key may contain ? and #
        return _s3_store(parts.netloc), address.removeprefix(f"s3://{parts.netloc}/")
    if parts.scheme not in ("http", "https"):
        raise InputError(
            f"{source}: addresses that start with {parts.scheme}:// are not supported. Supported "
            "are https://, http:// and s3://. Otherwise copy the imagery to a disk and read it "
            "there."
        )
    if needs_token and _takes_token(parts.netloc, parts.query):
        container, _, path = parts.path.lstrip("/").partition("/")
        return _azure_store(f"{parts.scheme}://{parts.netloc}", container), unquote(path)
    # The catalogue was checked when it was read. Those on this machine may name private addresses.
    check_reach(address, "")
    # A store per folder, because the bands of an acquisition share it and so its connections.
    folder, _, name = parts.path.rpartition("/")
    address = urlunsplit((parts.scheme, parts.netloc, folder, parts.query, ""))
    return _http_store(address), unquote(name)


def _takes_token(host: str, query: str) -> bool:
    """Return whether the Planetary Computer signs an address; it leaves out those of other hosts.

    The rules are those of `sign_url` of Planetary Computer's package planetary-computer 1.0.
    """
    is_public = host == "ai4edatasetspublicassets.blob.core.windows.net"
    is_signed = not {"st", "se", "sp"}.isdisjoint(parse_qs(query))
    return host.endswith(".blob.core.windows.net") and not is_public and not is_signed


@lru_cache(maxsize=256)
def _http_store(address: str) -> HTTPStore:
    """Make the store of a folder on a web server."""
    # The user of the address, or of the file .netrc; obstore itself reads neither.
    user, password = get_auth_from_url(address)
    login = (user, password) if user else get_netrc_auth(address)
    headers = {}
    if login:
        headers["Authorization"] = f"Basic {b64encode(':'.join(login).encode()).decode()}"
    return HTTPStore(address, **_options(default_headers=headers))


@lru_cache(maxsize=256)
def _azure_store(endpoint: str, container: str) -> AzureStore:
    """Make the store of a container of the Planetary Computer; obstore renews its token."""
    provider = PlanetaryComputerCredentialProvider(
        account_name=urlsplit(endpoint).netloc.partition(".")[0],
        container_name=container,
        session=web_session(),
    )
    return AzureStore(credential_provider=provider, endpoint=endpoint, **_options())


@lru_cache(maxsize=256)
def _s3_store(bucket: str) -> S3Store:
    """Make the store of a bucket of the S3 service that the environment sets.

    The names of the variables are those of GDAL. Requests are signed if there is a key.
    """
    # obstore reads most of these variables itself, but takes an empty one for a value.
    environment = {name: value for name, value in os.environ.items() if value}
    host = environment.get("AWS_S3_ENDPOINT", "").rpartition("://")[2].strip("/")
    if not host:
        raise InputError(
            f"s3://{bucket} is a bucket of an S3 service, and the environment does not say which: "
            "set AWS_S3_ENDPOINT to its host, and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to "
            "your key."
        )
    is_plain = environment.get("AWS_HTTPS", "").upper() in ("NO", "FALSE")
    key: S3Credential = {
        "access_key_id": environment.get("AWS_ACCESS_KEY_ID", ""),
        "secret_access_key": environment.get("AWS_SECRET_ACCESS_KEY", ""),
        "token": environment.get("AWS_SESSION_TOKEN"),
        "expires_at": None,
    }
    return S3Store(
        bucket,
        # This name goes before every endpoint in the environment.
        aws_endpoint_url_s3=f"{'http' if is_plain else 'https'}://{host}",
        region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION", "us-east-1"),
        request_payer="AWS_REQUEST_PAYER" in environment,
        virtual_hosted_style_request=False,
        skip_signature=not key["access_key_id"],
        credential_provider=lambda: key,
        **_options(),
    )


def _options(**client: Any) -> dict[str, Any]:
    """Return the options of a store; obstore takes proxies from the environment itself."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle and Path(bundle).is_file():
        client["root_certificate"] = Path(bundle).read_bytes()
    client |= {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
        "timeout": timedelta(seconds=ANSWER_TIMEOUT_S),
    }
    backoff = {
        "init_backoff": timedelta(seconds=FIRST_WAIT_S),
        "max_backoff": timedelta(seconds=LONGEST_WAIT_S),
        # obstore draws each wait between the first one and `base` times the previous one: with 4,
        # waits double on average.
        "base": 4,
    }
    retry = {"max_retries": TRIES - 1, "retry_timeout": timedelta(seconds=RETRY_FOR_S)}
    return {"client_options": client, "retry_config": {**retry, "backoff": backoff}}


# GDAL reads the file header and the headers of JPEG 2000 tiles again for every window, because
# every window opens the file anew. They are read in chunks of this size and cached (at most
# 64 MiB). Pixels are read exactly as requested and not cached.
_CHUNK = 16_384
_CHUNKS_CACHED = 4096

_names = itertools.count()


@contextmanager
def open_raster(source: str, driver: str, **options: Any) -> Iterator[Any]:
    """Open a remote raster for this thread alone.

    Parameters
    ----------
    source
        Its address.
    driver
        The only driver of GDAL that may open it.
    options
        Configuration of GDAL. Its drivers must not use threads: those would not find the file.

    Raises
    ------
    InputError
        If any read failed, even if GDAL ignored the failure.
    """
    size = _chunk(source, 0)[1]
    failures: list[Exception] = []
    # Threads may read the same file at the same time: each opening has a name and an opener.
    name = f"{next(_names)}/{urlsplit(source).path.rpartition('/')[2]}"
    options |= {"GDAL_NUM_THREADS": "1", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}

    def opener(path: str, mode: str = "r", **_: Any) -> _RangeFile:  # noqa: ARG001
        return _RangeFile(source, size, failures)

    try:
        with (
            rasterio.Env(**options),
            rasterio.open(name, driver=driver, opener=opener, sharing=False) as raster,
        ):
            yield raster
    finally:
        if failures:
            raise failures[0]


class _RangeFile(io.RawIOBase):
    """A remote file that is read by range requests.

    GDAL calls it from C++, where an exception would end the process. Exceptions are therefore
    added to `failures`, and `open_raster` raises the first one.
    """

    def __init__(self, source: str, size: int, failures: list[Exception]) -> None:
        self.source = source
        self.size = size
        self.failures = failures
        self.position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it; `tell` uses it, too."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = origin + offset
        return self.position

    def read(self, size: int = -1) -> bytes:
        """Read from the position on; return nothing after a failure."""
        stop = self.size if size < 0 else min(self.position + size, self.size)
        content = b""
        if not self.failures:
            try:
                content = _read(self.source, self.position, stop)
            except Exception as error:  # noqa: BLE001 (raised by `open_raster`)
                self.failures.append(error)
        self.position += len(content)
        return content


def _read(source: str, start: int, stop: int) -> bytes:
    """Read the bytes from `start` to `stop`; neither is beyond the end."""
    if start >= stop:
        return b""
    if stop - start > _CHUNK:
        return read_bytes(source, (start, stop))[0]
    first, last = start // _CHUNK, (stop - 1) // _CHUNK
    content = b"".join(_chunk(source, number)[0] for number in range(first, last + 1))
    return content[start - first * _CHUNK : stop - first * _CHUNK]


@lru_cache(maxsize=_CHUNKS_CACHED)
def _chunk(source: str, number: int) -> tuple[bytes, int]:
    """Read a chunk of a file and the length of the file, cached."""
    return read_bytes(source, (number * _CHUNK, (number + 1) * _CHUNK))
