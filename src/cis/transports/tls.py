"""Whom a node believes that a server is who it says: the public authorities, and those that this machine trusts."""

from __future__ import annotations

import ssl
from functools import lru_cache

import httpx


@lru_cache(maxsize=1)
def trusted_authorities() -> ssl.SSLContext:
    """Return a context that checks certificates; ``SSL_CERT_FILE`` and the system's own store count as well."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context
