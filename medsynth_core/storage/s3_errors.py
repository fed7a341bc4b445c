"""What an S3 server or the way to it says, as our errors: which may pass, and what to do about the others."""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
)
from botocore.exceptions import ConnectionError as NetworkError
from urllib3.exceptions import HTTPError

from medsynth_core.errors import MedsynthError, StoreError, TransientError

MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
STANDS_THERE = frozenset({"PreconditionFailed", "412"})
CONFLICT = frozenset({"ConditionalRequestConflict", "OperationAborted", "409"})
"""Another writer is at it and may yet fail: neither ours nor there, so it is asked again."""
BROKEN_OFF = (HTTPClientError, IncompleteReadError, FlexibleChecksumError, HTTPError)
"""Raised while a body is read: closed, timed out, cut short, changed on the way."""

FAILURES = (BotoCoreError, ClientError, HTTPError, ValueError)
"""What ``as_ours`` is asked about; botocore raises ValueError for an address that is none."""

_PASSING = frozenset(
    {
        *("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"),
        *("BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"),  # changed on the way
    }
)
_CREDENTIALS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"})
_PERMISSION = frozenset({"AccessDenied", "AllAccessDisabled", "403"})
_CERTIFICATE = ("certificate", "hostname", "wrong version number", "record layer failure")
"""What TLS says when it will never do; the rest, such as an early end, may pass."""


def code_of(error: ClientError) -> str:
    """Returns the code that a server gave, or the HTTP status where there was no body to name one."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def as_ours(error: Exception, where: str, key: str, bucket: str) -> MedsynthError:
    """Returns what an error of botocore's is to the caller: one line.

    Args:
        where: the store, and its server if it isn't AWS.
    """
    if isinstance(error, ClientError):
        return _answered(error, where, key, bucket)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StoreError(f"{where}: no credentials; export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, SSLError) and any(word in str(error).lower() for word in _CERTIFICATE):
        return StoreError(f"{where}: {_line(error)}; check store.endpoint_url, or name the CA in AWS_CA_BUNDLE")
    if isinstance(error, EndpointConnectionError):
        return TransientError(f"{where}: can't be reached; check store.endpoint_url and the network")
    if isinstance(error, ProxyConnectionError):
        return TransientError(f"{where}: {_line(error)}; check HTTP_PROXY, HTTPS_PROXY and the network")
    if isinstance(error, (NetworkError, MetadataRetrievalError, *BROKEN_OFF)):
        return TransientError(f"{where}: {key}: {_line(error)}")
    return StoreError(f"{where}: {_line(error)}; check store.url, store.endpoint_url and AWS_*")


def _answered(error: ClientError, where: str, key: str, bucket: str) -> MedsynthError:
    code = code_of(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _PASSING or code in CONFLICT or status == 429 or (status >= 500 and code != "NotImplemented"):
        return TransientError(f"{where}: {key}: {code}")
    if code == "NoSuchBucket":
        return StoreError(f"{where}: no bucket {bucket!r}; create it or correct store.url")
    if code in _CREDENTIALS:
        return StoreError(f"{where}: credentials refused ({code}); check AWS_* in the environment")
    if code in _PERMISSION:
        return StoreError(
            f"{where}: {key}: {error.operation_name} not permitted ({code}); grant it, or use other credentials"
        )
    return StoreError(f"{where}: {key}: {'no such object' if code in MISSING else code}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
