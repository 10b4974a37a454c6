"""The forms in which the value of a secret may turn up in a text, as ``cis.model.masking`` looks for them.

The value itself, each of its lines, and the value in UTF-16; base64 (both alphabets, at each of the three places that
its bytes may have within a longer text) and hexadecimal of all these and of the value as JSON and URLs have it; as
JSON, Python, C, HTML and XML escape it. What only puts quotes, backslashes, blanks, line ends or percent signs between
is no form of its own: the comparison passes over those, and reads dumps.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Iterator

from cis.model.masking import SHORTEST, without_gaps

MAX_BYTES = 64 * 2**10
MAX_LINES = 1000
_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"
_SAFE = (b"", b"/", b"!*()", b";,/?:@&=$!*()#")  # what encoders leave as it is: a form's, a path's, JavaScript's two
_HTML = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#x27;"))
_HTML_BY_NUMBER = (*_HTML[:3], ('"', "&#34;"), ("'", "&#39;"))
_HTML_IN_JSON = (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"))


def value_fault(value: str) -> str | None:
    """Return why *value* cannot be a secret, or None."""
    if "\0" in value:
        return "holds a NUL character, which no process can be given"
    if len(value.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return f"is longer than {MAX_BYTES // 1024} KiB"
    if value.count("\n") > MAX_LINES:
        return f"has more than {MAX_LINES:,} lines"
    if len(without_gaps(value.encode("utf-8", "surrogatepass"))) < SHORTEST:
        return (
            f"is too short to be masked: it needs {SHORTEST} characters "
            "besides blanks, quotes, backslashes and plus signs"
        )
    return None


def needles(values: Iterable[str]) -> tuple[bytes, ...]:
    """Return what to look for so that none of *values* is shown: each once, none shorter than ``SHORTEST``."""
    compared = (without_gaps(form) for value in values for form in _forms(value))
    return tuple(dict.fromkeys(form for form in compared if len(form) >= SHORTEST))


def _forms(value: str) -> Iterator[bytes]:
    data = value.encode()
    yield data
    for line in value.splitlines():
        yield line.encode()
    for text in _encoded(value):
        yield from _base64_forms(text)
        yield text.hex().encode()
        yield text.hex().upper().encode()
    yield from _wide(value)
    yield from _escaped(value)
    yield from _byte_by_byte(data)
    for safe in _SAFE:
        yield from _percent_encoded(data, safe=safe)


def _encoded(value: str) -> Iterator[bytes]:
    """Yield the value as texts have it that are often encoded as a whole: itself, in JSON, in a URL, in UTF-16."""
    data = value.encode()
    inside = (json.dumps(value)[1:-1].encode(), json.dumps(value, ensure_ascii=False)[1:-1].encode())
    in_urls = (text for safe in (b"", b"/") for text in _percent_encoded(data, safe=safe))
    in_forms = (text.replace(b" ", b"+") for text in _percent_encoded(data, safe=b""))
    yield from dict.fromkeys((data, *inside, *in_urls, *in_forms, *_wide(value)))


def _wide(value: str) -> Iterator[bytes]:
    yield value.encode("utf-16-le")
    yield value.encode("utf-16-be")


def _byte_by_byte(data: bytes) -> Iterator[bytes]:
    """Yield the bytes as numbers, each with what stands before or after it besides gaps."""
    for digits in ("%02x", "%02X"):
        for between in (":", "x", ",0x"):  # of a fingerprint, of strings in C, of a list in C
            yield between.join(digits % byte for byte in data).encode()
    yield b"".join(b"%03o" % byte for byte in data)
    yield b",".join(b"%d" % byte for byte in data)


def _percent_encoded(data: bytes, *, safe: bytes) -> Iterator[bytes]:
    """Yield what is found by decoding as well, but where a stray percent sign stands right before it."""
    for kept in (_UNRESERVED + safe, _UNRESERVED + safe + b" "):  # a blank that is a plus sign is a gap like it
        for digits in (b"%%%02X", b"%%%02x"):
            yield b"".join(bytes([byte]) if byte in kept else digits % byte for byte in data)


def _escaped(value: str) -> Iterator[bytes]:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        yield text.encode()
        yield _replaced(text, _HTML_IN_JSON).encode()
    yield "".join(f"\\u{ord(char):04X}" if 0x7F < ord(char) < 0x10000 else char for char in value).encode()
    yield from (ascii(value).encode(), repr(value).encode())
    for pairs in (_HTML, _HTML_BY_NUMBER):
        yield _replaced(value, pairs).encode()
        yield _replaced(value, pairs).encode("ascii", "xmlcharrefreplace")
    for number in ("%d", "x%x", "x%X", "X%x", "X%X"):
        yield "".join(f"&#{number % ord(char)};" for char in value).encode()


def _base64_forms(data: bytes) -> Iterator[bytes]:
    for before in range(3):
        encoded = binascii.b2a_base64(bytes(before) + data, newline=False)
        begin = (before * 8 + 5) // 6  # the first character that only bits of the value are in
        end = (before + len(data)) * 8 // 6
        core = encoded[begin:end]
        yield core
        yield core.translate(bytes.maketrans(b"+/", b"-_"))


def _replaced(text: str, pairs: Iterable[tuple[str, str]]) -> str:
    for char, escape in pairs:
        text = text.replace(char, escape)
    return text
