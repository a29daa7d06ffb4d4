"""Secrets: how keys are minted and recognised, how credentials are sealed, how passwords are kept.

A key is `wsk_<12 public id>_<43 secret>_<6 checksum>`, all base62: the prefix for secret scanners, the public id for the
look-up, 256 random bits, and a CRC32 that refuses typos before any look-up (GitHub's token design, 2021). Stored are the
public id, the last four characters and HMAC-SHA256 of the secret under a pepper. Pepper and encryption key are derived from
WAYSTATION_SECRET_KEY with HKDF-SHA256 (RFC 5869).
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
import zlib

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from shared.domain.identity import BASE62, random_base62

PREFIX = "wsk"
PUBLIC_ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 12, 43, 6
KEY_LENGTH = len(PREFIX) + PUBLIC_ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH + 3
LEAST_SECRET = 32
KNOWN = (
    "changeme",
    "change-me",
    "secret",
    "password",
    "example",
    "waystation",
    "sk-1234",
    "default",
    "test",
    "1234",
    "abcd",
)


class SecretError(Exception):
    """A secret that must not be used, or something sealed that does not open. Never holds the secret."""


class MintedKey(msgspec.Struct, frozen=True):
    """A new key. `text` is shown once and stored nowhere."""

    public_id: str
    secret: str
    text: str


class ParsedKey(msgspec.Struct, frozen=True):
    public_id: str
    secret: str


def mint_key() -> MintedKey:
    public_id, secret = random_base62(PUBLIC_ID_LENGTH), random_base62(SECRET_LENGTH)
    body = f"{PREFIX}_{public_id}_{secret}"
    return MintedKey(public_id, secret, f"{body}_{checksum(body)}")


def parse_key(text: str) -> ParsedKey | None:
    """The parts of a well-formed key; None for anything else. Looks nothing up."""
    if len(text) != KEY_LENGTH or not text.isascii():
        return None
    body, _, check = text.rpartition("_")
    parts = body.split("_")
    if len(parts) != 3 or parts[0] != PREFIX or len(parts[1]) != PUBLIC_ID_LENGTH or len(parts[2]) != SECRET_LENGTH:
        return None
    if check != checksum(body):
        return None
    return ParsedKey(parts[1], parts[2])


def checksum(body: str) -> str:
    """CRC32 of `body` in six base62 digits."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    return digits


class Vault:
    """Seals credentials and recognises keys, with keys derived from the installation's one secret."""

    __slots__ = ("_aead", "_pepper")

    def __init__(self, pepper: bytes, encryption_key: bytes) -> None:
        self._pepper = pepper
        self._aead = AESGCM(encryption_key)

    @staticmethod
    def from_secret(secret: str) -> Vault:
        """Raises SecretError for a secret that is short, repeats itself or is a well-known word."""
        if len(secret) < LEAST_SECRET:
            raise SecretError(f"WAYSTATION_SECRET_KEY must have at least {LEAST_SECRET} characters")
        if len(set(secret)) < 10 or any(_repeats(secret.lower(), word) for word in KNOWN):
            raise SecretError("WAYSTATION_SECRET_KEY is guessable: use `openssl rand -base64 48`")
        return Vault(_derive(secret, b"waystation pepper v1"), _derive(secret, b"waystation sealing v1"))

    def digest(self, secret: str) -> bytes:
        """What is stored of a key's secret."""
        return hmac.digest(self._pepper, secret.encode(), "sha256")

    def seal(self, plain: str, context: str) -> bytes:
        """AES-256-GCM; opens only in the same `context`, so that a sealed value cannot be moved to another row."""
        return self.seal_bytes(plain.encode(), context)

    def seal_bytes(self, plain: bytes, context: str) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._aead.encrypt(nonce, plain, context.encode())

    def unseal(self, sealed: bytes, context: str) -> str:
        """Raises SecretError."""
        return self.unseal_bytes(sealed, context).decode()

    def unseal_bytes(self, sealed: bytes, context: str) -> bytes:
        try:
            return self._aead.decrypt(sealed[:12], sealed[12:], context.encode())
        except InvalidTag:
            raise SecretError(
                "a sealed credential does not open: was WAYSTATION_SECRET_KEY changed since it was stored?"
            ) from None


def credential_context(connection_id: str, version: int) -> str:
    """What a connection's credential is sealed for."""
    return f"connection:{connection_id}:{version}"


def proxy_context(level: str, name: str, version: int) -> str:
    """What a proxy's URL is sealed for."""
    return f"proxy:{level}:{name}:{version}"


def new_secret() -> str:
    """A secret for a new installation."""
    return base64.b64encode(secrets.token_bytes(48)).decode()


def hash_password(password: str) -> str:
    """scrypt (RFC 7914), n=2^15: slow on purpose, for a person's password only."""
    salt = os.urandom(16)
    derived = Scrypt(salt=salt, length=32, n=2**15, r=8, p=1).derive(password.encode())
    return f"scrypt$15${base64.b64encode(salt).decode()}${base64.b64encode(derived).decode()}"


def _derive(secret: str, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=b"waystation", info=purpose).derive(secret.encode())


def _repeats(secret: str, word: str) -> bool:
    """Whether the secret is little more than `word` over and over."""
    return len(secret.replace(word, "")) < LEAST_SECRET // 2
