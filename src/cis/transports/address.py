"""Addresses of nodes and homeservers, and whom this machine believes that a server there is who it says.

An address is a scheme, a host, perhaps a port, and nothing else.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl


def read_address(text: str) -> str:
    """Return an address without a slash at its end. Raises ValueError, which says how one is written."""
    if not _is_address(text):
        raise ValueError(
            f"{text!r:.200} is not an address; write http://HOST:PORT or https://HOST, and nothing behind it"
        )
    return text.rstrip("/")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    alone = text.rstrip("/") == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc
    plain = text.isascii() and text.isprintable() and " " not in text and "\\" not in text
    return named and alone and plain


@lru_cache(maxsize=1)
def trusted_authorities() -> ssl.SSLContext:
    """Return a context that checks certificates by the public authorities and those that this machine trusts.

    ``SSL_CERT_FILE`` and the system's own store count as well.
    """
    import httpx  # noqa: PLC0415 - 100 ms, and every command reads addresses

    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context
