"""Signatures, against the example that AWS publishes and against how Bedrock encodes a model's id."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import quote

import pytest

from shared.clock import FixedClock
from shared.domain.catalogue import Auth, Provider
from shared.upstream.credentials import Credentials
from shared.upstream.sigv4 import AccessKey, access_key, region_of, signature_headers
from tests.upstream.test_credentials import VAULT, connection, deployment

KEY = AccessKey("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
AT_S = 1_440_938_160.0
"""2015-08-30T12:36:00Z: the date of AWS's own examples."""


def test_the_signing_key_is_that_of_awss_example() -> None:
    """AWS's documented derivation (20150830, us-east-1, iam), followed by hand beside ours."""
    secret = f"AWS4{KEY.secret}".encode()
    for part in (b"20150830", b"us-east-1", b"iam", b"aws4_request"):
        secret = hmac.new(secret, part, hashlib.sha256).digest()
    assert secret.hex() == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"


def test_a_request_is_signed_over_its_twice_encoded_path_and_its_body() -> None:
    path = "/model/" + quote("anthropic.claude-3:0", safe="") + "/converse"
    lines = dict(
        signature_headers(
            KEY,
            method="POST",
            authority="bedrock-runtime.us-east-1.amazonaws.com",
            path=path,
            body=b"{}",
            region="us-east-1",
            time_s=AT_S,
        )
    )
    canonical = (
        "POST\n/model/anthropic.claude-3%253A0/converse\n\ncontent-type:application/json\n"
        "host:bedrock-runtime.us-east-1.amazonaws.com\nx-amz-date:20150830T123600Z\n\ncontent-type;host;x-amz-date\n"
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )
    text = "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/bedrock/aws4_request\n"
    text += hashlib.sha256(canonical.encode()).hexdigest()
    secret = f"AWS4{KEY.secret}".encode()
    for part in ("20150830", "us-east-1", "bedrock", "aws4_request", text):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    assert lines["x-amz-date"] == "20150830T123600Z"
    assert lines["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/bedrock/aws4_request, "
        f"SignedHeaders=content-type;host;x-amz-date, Signature={secret.hex()}"
    )


def test_a_signature_is_the_one_that_botocore_makes() -> None:
    """botocore 1.44.5's SigV4Auth over the same request, with and without a session token."""
    signatures = [
        dict(
            signature_headers(
                key, method="POST", authority="bedrock-runtime.us-east-1.amazonaws.com",
                path="/model/anthropic.claude-3%3A0/converse", body=b'{"a":1}', region="us-east-1", time_s=AT_S,
            )
        )["authorization"].rpartition("=")[2]
        for key in (AccessKey("AK", "SK"), AccessKey("AK", "SK", "tok/en=="))
    ]  # fmt: skip
    assert signatures == [
        "3ba8c6d825815a25d1517caee078e767c4c0b9c64b79248f523b64741e718f4f",
        "e16e0dea57657d8cd8473fdf04cb581abb0c73f42ec7a2abb2cf5e28a4cdb20e",
    ]


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("bedrock-runtime.eu-central-1.amazonaws.com", "eu-central-1"),
        ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("vpce-0a1b.bedrock-runtime.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
        ("127.0.0.1:9100", "us-east-1"),
    ],
)
def test_the_region_is_in_the_host(host: str, region: str) -> None:
    assert region_of(host) == region


def test_a_credential_without_a_colon_is_a_bedrock_api_key() -> None:
    assert access_key("ABSKQmVkcm9jaw==") is None
    assert access_key("AKID:secret:token") == AccessKey("AKID", "secret", "token")
    with pytest.raises(ValueError, match="ACCESS_KEY:SECRET_KEY") as caught:
        access_key("AKID::s3cret")
    assert "s3cret" not in str(caught.value)


def test_every_request_is_signed_anew_and_its_secret_does_not_travel() -> None:
    clock = FixedClock(AT_S)
    aws = Provider(name="bedrock", title="Bedrock", prefix="bedrock", base_url=None, auth=Auth.AWS)
    one = deployment(connection(secret="AKID:hidden/secret:tok"), aws)
    credentials = Credentials(VAULT, clock)
    first = credentials.request(one, "chat", b"{}").head.wire(2)
    clock.advance(1)
    second = credentials.request(one, "chat", b"{}").head.wire(2)
    assert b"x-amz-date: 20150830T123600Z\r\n" in first
    assert b"x-amz-date: 20150830T123601Z\r\n" in second
    assert b"x-amz-security-token: tok\r\n" in first
    assert b"Credential=AKID/20150830/us-east-1/bedrock/aws4_request" in first
    assert b"hidden/secret" not in first
    assert "hidden" not in repr(credentials.__dict__)


def test_a_bedrock_api_key_travels_as_bearer() -> None:
    aws = Provider(name="bedrock", title="Bedrock", prefix="bedrock", base_url=None, auth=Auth.AWS)
    wire = Credentials(VAULT).request(deployment(connection(secret="ABSKabc"), aws), "chat", b"").head.wire(0)
    assert b"authorization: Bearer ABSKabc\r\n" in wire
