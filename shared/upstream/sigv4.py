"""AWS Signature Version 4 (pure): a request and an access key → the headers that prove it.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html. A path that is already
percent-encoded is encoded once more (all services but S3).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
REGION = re.compile(r"(?:^|\.)bedrock-runtime(?:-fips)?\.([a-z]{2}(?:-[a-z]+)+-\d)\.")
DEFAULT_REGION = "us-east-1"
SECRET_PART = re.compile(r"[\x21-\x39\x3b-\x7e]+")


class AccessKey(NamedTuple):
    key_id: str
    secret: str
    session_token: str | None = None

    def __repr__(self) -> str:
        return "AccessKey(…)"


def access_key(credential: str) -> AccessKey | None:
    """`ACCESS_KEY:SECRET_KEY[:SESSION_TOKEN]`; None when it is no such thing (a Bedrock API key).

    Raises ValueError, without the credential in it, when a part is empty or cannot be one.
    """
    if ":" not in credential:
        return None
    parts = credential.split(":")
    if len(parts) > 3 or not all(SECRET_PART.fullmatch(part) for part in parts):
        raise ValueError("an AWS credential is ACCESS_KEY:SECRET_KEY or ACCESS_KEY:SECRET_KEY:SESSION_TOKEN")
    return AccessKey(*parts)


def region_of(host: str) -> str:
    """The region that a Bedrock endpoint's host names; us-east-1 where it names none (a proxy, a private name)."""
    match = REGION.search(host)
    return match[1] if match else DEFAULT_REGION


def signature_headers(
    key: AccessKey, *, method: str, authority: str, path: str, body: bytes, region: str, time_s: float, service: str = "bedrock"
) -> list[tuple[str, str]]:
    """The lines to add to a request that has `content-type: application/json`. `authority` is its Host header."""
    stamp = datetime.fromtimestamp(time_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    signed = {"content-type": "application/json", "host": authority, "x-amz-date": stamp}
    if key.session_token is not None:
        signed["x-amz-security-token"] = key.session_token
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            method,
            quote(path, safe="/-_.~"),
            "",
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join([ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    secret = f"AWS4{key.secret}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    lines = [("x-amz-date", stamp)]
    if key.session_token is not None:
        lines.append(("x-amz-security-token", key.session_token))
    authorisation = f"{ALGORITHM} Credential={key.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return [*lines, ("authorization", authorisation)]
