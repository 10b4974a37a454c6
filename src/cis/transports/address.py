"""Addresses of nodes and homeservers: a scheme, a host, perhaps a port, and nothing else."""

from __future__ import annotations

from urllib.parse import urlsplit


def read_address(text: str) -> str:
    """Return an address without a slash at its end. Raises ValueError, which says how one is written."""
    if not _is_address(text):
        raise ValueError(f"{text!r:.200} is no address; write http://HOST:PORT or https://HOST, and nothing behind it")
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
