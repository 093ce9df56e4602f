"""Read remote files over HTTP, S3 and Azure, and open remote rasters.

obstore sends the requests and signs them. This module compares the length of every answer with the
length that was requested, and repeats requests that fail (see `retries`).

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
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
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

from geo.documents import LARGEST_JSON
from geo.errors import AccessError, InputError, UnavailableError
from geo.imagery import retries
from geo.imagery.acquisition import PLANETARY_COMPUTER
from geo.imagery.networks import check_reach
from geo.imagery.retries import GivenUpError, TemporaryError, until_answered, within

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Credential

# urllib3 warns of every retry, with the whole address and so with its signature.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

# A token is replaced this long before it expires.
_EXPIRING = timedelta(minutes=5)
# Longest wait that a server can ask for by the header Retry-After.
_LONGEST_RETRY_AFTER_S = 60
# Codes besides those of server errors after which a request is repeated: timeout, too early, too
# many requests.
_TEMPORARY = (408, 425, 429)

_AGAIN = "Run it again when the service answers: finished files are kept."


def without_signature(source: str) -> str:
    """Return an address without query and user, which may contain signatures and passwords."""
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _is_temporary(status: int) -> bool:
    """Return whether a status code says that the same request may succeed later."""
    return status >= 500 or status in _TEMPORARY


class _WholeAnswers(HTTPAdapter):
    """Transport of `requests` that repeats requests, and returns whole answers only.

    Parameters
    ----------
    source
        The catalogue that the settings name: see `geo.imagery.networks.check_reach`.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request until its answer is whole; those that follow redirects come here, too."""
        check_reach(request.url or "", self.source)
        options["timeout"] = retries.CONNECT_TIMEOUT_S, retries.READ_TIMEOUT_S
        body = bytearray()

        def try_once() -> requests.Response:
            body.clear()
            try:
                answer = super(_WholeAnswers, self).send(request, **options)
                if not _is_temporary(answer.status_code):
                    _read_body(answer, body)
                    answer._content = bytes(body)
                    return answer
            except requests.exceptions.ChunkedEncodingError:
                raise TemporaryError("the answer ended too early") from None
            except (requests.ConnectionError, requests.Timeout) as error:
                raise TemporaryError(_innermost(error)) from None
            asked = answer.headers.get("Retry-After", "")
            wait_s = min(int(asked), _LONGEST_RETRY_AFTER_S) if asked.isdecimal() else None
            answer.close()
            raise TemporaryError(
                f"the server answered {answer.status_code} {answer.reason}", wait_s
            )

        try:
            return until_answered(
                urlsplit(request.url or "").netloc,
                lambda left_s: within(left_s, try_once, lambda: len(body)),
            )
        except GivenUpError as error:
            raise requests.ConnectionError(str(error)) from None


def _innermost(error: BaseException) -> str:
    """Return what went wrong with a connection, without the address."""
    inner: Any = error
    while isinstance(inner, BaseException):
        error = inner
        inner = getattr(error, "reason", None) or next(
            (part for part in error.args if isinstance(part, BaseException)), None
        )
    return re.sub(r"\w*Connection\w*\(.*?\): ", "", str(error))


def _read_body(answer: requests.Response, body: bytearray) -> None:
    """Read the body of an answer, unpacked, up to the largest size."""
    # As large a part as a connection brings: an answer may be packed a thousandfold.
    for part in answer.iter_content(65_536):
        body += part
        if len(body) > LARGEST_JSON:
            answer.close()
            raise requests.RequestException(f"the answer has more than {LARGEST_JSON:,} bytes")


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

    def try_once(_left_s: float) -> tuple[bytes, int]:
        try:
            answer = obstore.get(store, path, options={"range": extent} if extent else None)
            size = answer.meta["size"]
            content = answer.bytes().to_bytes()
        except BaseError as error:
            line = str(error).partition("\n")[0]
            status = _STATUS.search(line)
            if not (_is_temporary(int(status[1])) if status else _NO_ANSWER.search(line)):
                raise
            # obstore's messages contain the whole address: the signature must not reach the log.
            raise TemporaryError(_cause(error)) from None
        start, stop = extent or (0, size)
        if len(content) != min(stop, size) - start:
            raise TemporaryError("the answer ended too early")
        return content, size

    shown = without_signature(source)
    try:
        store, path = _locate(source)
        return until_answered(urlsplit(shown).netloc, try_once)
    except GivenUpError as error:
        raise UnavailableError(f"{shown} cannot be read ({error}). {_AGAIN}") from None
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise AccessError(_refused(shown, _cause(error))) from None
    except (BaseError, FileNotFoundError, ValueError) as error:
        raise InputError(_explain(shown, error)) from None


_STATUS = re.compile(r"status code: (\d{3})[A-Za-z ]*")
# The connection failed, or the answer broke off.
_NO_ANSWER = re.compile(r"[-:] HTTP error: ")


def _cause(error: Exception) -> str:
    """Return the cause of an error of obstore."""
    # "Generic HTTP error: Error performing GET {address} in 1 s, after 6 retries, ... - {cause}:
    # {the server's page}", and below it the chain of errors, of which the innermost comes last.
    line, _, chain = str(error).partition("\n")
    if status := _STATUS.search(line):
        return status[0].removeprefix("status code: ").strip()
    if "kind: Interrupted" in chain:
        return "the answer ended too early"
    if line.endswith("HTTP error: error sending request"):
        causes = re.findall(r'"[^"]+"|\b[A-Z]\w+(?=,?\n)', chain)
        return f"the connection failed: {causes[-1]}"
    return re.sub(r"\?\S*", "", line)


def _explain(shown: str, error: Exception) -> str:
    """Return the message for the user about an error of obstore."""
    reason = _cause(error)
    if isinstance(error, ValueError):
        return f"{shown} is not a valid address ({reason})."
    if isinstance(error, FileNotFoundError):
        return (
            f"{shown} does not exist ({reason}). Check its address, or search the imagery again: "
            "snakemake -R index."
        )
    if isinstance(error, NotSupportedError):
        return (
            f"{shown}: the server does not support range requests, it sends whole files only. Copy "
            "the imagery to a disk and read it there."
        )
    return f"{shown} cannot be read ({reason}). Check its address, or report it to the service."


def _refused(shown: str, reason: str) -> str:
    """Return the message about an address to which access is refused."""
    return (
        f"Access to {shown} is refused ({reason}). Set imagery.sign, or the credentials of the "
        "service in the environment (docs/guide/imagery.md, STAC). S3 also refuses access to "
        "files that do not exist."
    )


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
        _check_token(without_signature(address), _account(parts.netloc), container)
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


def _account(host: str) -> str:
    """Return the account of Azure whose files a host serves."""
    return host.partition(".")[0]


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


class _Tokens:
    """Tokens of a container of the Planetary Computer, requested anew when the last one expires."""

    def __init__(self, account: str, container: str) -> None:
        self._request = PlanetaryComputerCredentialProvider(
            account_name=account, container_name=container, session=web_session()
        )
        self._lock = threading.Lock()
        self._token: Any = None

    def __call__(self) -> Any:
        """Return the current token; requests raises an error if there is none."""
        with self._lock:
            now = datetime.now(UTC)
            if self._token is None or self._token["expires_at"].astimezone(UTC) < now + _EXPIRING:
                self._token = self._request()
            return self._token


@lru_cache(maxsize=256)
def _tokens(account: str, container: str) -> _Tokens:
    """Return the tokens of a container; all of its files share them."""
    return _Tokens(account, container)


def _check_token(shown: str, account: str, container: str) -> None:
    """Request the token of a container now: obstore would hide why there is none.

    Raises
    ------
    UnavailableError
        If the service of the tokens does not answer.
    InputError
        If it refuses, or does not send a token.
    """
    try:
        _tokens(account, container)()
    except requests.HTTPError as error:
        raise AccessError(_refused(shown, f"no token: {error}")) from None
    except requests.ConnectionError as error:
        raise UnavailableError(
            f"{shown} cannot be read: there is no token for it, as the service of the Planetary "
            f"Computer that signs addresses does not answer ({error}). {_AGAIN}"
        ) from None
    except (requests.RequestException, LookupError, TypeError, ValueError):
        raise UnavailableError(
            f"{shown} cannot be read: the service of the Planetary Computer that signs addresses "
            f"sent something else than a token. {_AGAIN}"
        ) from None


@lru_cache(maxsize=256)
def _azure_store(endpoint: str, container: str) -> AzureStore:
    """Make the store of a container of the Planetary Computer; obstore renews its token."""
    account = _account(urlsplit(endpoint).netloc)
    return AzureStore(
        credential_provider=_tokens(account, container),
        account_name=account,
        container_name=container,
        endpoint=endpoint,
        **_options(),
    )


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
        "connect_timeout": timedelta(seconds=retries.CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=retries.READ_TIMEOUT_S),
        "timeout": timedelta(seconds=retries.LIMIT_S),
    }
    return {"client_options": client, "retry_config": {"max_retries": 0}}


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
