"""Auth (pure): an auth scheme and a secret → request headers."""

from __future__ import annotations

from shared.domain.catalogue import Auth


def headers(auth: Auth, secret: str) -> list[tuple[str, str]]:
    """Raises ValueError, without the secret in it, when the secret cannot be a header's value."""
    if auth is Auth.NONE:
        return []
    if not secret or not secret.isascii() or not secret.isprintable() or secret != secret.strip():
        raise ValueError("the credential is empty or has characters that no header can carry")
    if auth in (Auth.X_API_KEY, Auth.X_GOOG_API_KEY, Auth.API_KEY):
        return [(auth.value, secret)]
    if auth is Auth.AUTHORIZATION:
        return [("authorization", secret)]
    if auth is Auth.TOKEN:
        return [("authorization", f"Token {secret}")]
    return [("authorization", f"Bearer {secret}")]
