"""Addresses and headers with which services let files be read: signed links, S3 requests."""

from __future__ import annotations

import hashlib
import hmac
import os
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from geo.errors import InputError

# Prefix of the addresses that the Planetary Computer signs: planetary-computer+https://...
PLANETARY_COMPUTER = "planetary-computer+"

# SHA-256 of nothing: the body of a request to read.
_NO_BODY = hashlib.sha256(b"").hexdigest()


def authorised(source: str) -> tuple[str, dict[str, str]]:
    """Return the address to ask, and the headers to ask with, for a remote file.

    Parameters
    ----------
    source
        https:// or http:// as it is; s3://bucket/key, which is read from the service that the
        environment names, under the names that GDAL gives its variables (AWS_S3_ENDPOINT,
        AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_HTTPS,
        AWS_REQUEST_PAYER); planetary-computer+https://, whose signature is asked for and kept
        until it expires.

    Raises
    ------
    InputError
        If a service is not known or not named.
    """
    if source.startswith(PLANETARY_COMPUTER):
        with warnings.catch_warnings():
            # Its last release is written for an older pydantic.
            warnings.simplefilter("ignore", DeprecationWarning)
            import planetary_computer

        return planetary_computer.sign_url(source.removeprefix(PLANETARY_COMPUTER)), {}
    scheme = urlsplit(source).scheme
    if scheme in ("http", "https"):
        return source, {}
    if scheme != "s3":
        raise InputError(
            f"{source}: addresses that start with {scheme}:// are not read, but https://, http:// "
            "and s3://. Copy the imagery to a disk and read it there."
        )
    return _s3(source, os.environ, datetime.now(UTC))


def _s3(source: str, environment: Mapping[str, str], now: datetime) -> tuple[str, dict[str, str]]:
    """Return the address and the headers of an object in S3, signed if there is a key."""
    endpoint = environment.get("AWS_S3_ENDPOINT", "").rpartition("://")[2].strip("/")
    if not endpoint:
        raise InputError(
            f"{source} lies in an S3 store, and the environment does not say in which: set "
            "AWS_S3_ENDPOINT to its host, and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to your "
            "key."
        )
    scheme = "http" if environment.get("AWS_HTTPS", "YES").upper() in ("NO", "FALSE") else "https"
    bucket, _, key = source.removeprefix("s3://").partition("/")
    path = quote(f"/{bucket}/{key}")
    headers = {}
    if environment.get("AWS_REQUEST_PAYER"):
        headers["x-amz-request-payer"] = environment["AWS_REQUEST_PAYER"]
    if environment.get("AWS_ACCESS_KEY_ID"):
        headers = signature_v4(endpoint, path, headers, environment, now)
    return f"{scheme}://{endpoint}{path}", headers


def signature_v4(
    host: str,
    path: str,
    headers: Mapping[str, str],
    environment: Mapping[str, str],
    now: datetime,
) -> dict[str, str]:
    """Sign a request to read an object by version 4 of the signature of AWS.

    "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)" of the
    Amazon S3 API reference. Headers that are added afterwards (Range) need not be signed.

    Parameters
    ----------
    host, path
        Where the object lies; the path starts with / and is quoted.
    headers
        What else to sign, names in lower case.
    environment
        AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN and AWS_REGION if any.
    now
        Time of the request, UTC.

    Returns
    -------
    dict
        `headers` with those that hold the signature.
    """
    stamp = f"{now:%Y%m%dT%H%M%SZ}"
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    signed = {**headers, "host": host, "x-amz-content-sha256": _NO_BODY, "x-amz-date": stamp}
    if environment.get("AWS_SESSION_TOKEN"):
        signed["x-amz-security-token"] = environment["AWS_SESSION_TOKEN"]
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request = f"GET\n{path}\n\n{lines}\n{names}\n{_NO_BODY}"

    scope = f"{now:%Y%m%d}/{region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    key = f"AWS4{environment.get('AWS_SECRET_ACCESS_KEY', '')}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    signed["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={environment['AWS_ACCESS_KEY_ID']}/{scope},"
        f"SignedHeaders={names},Signature={signature}"
    )
    return signed
