"""Reads back what ``xxd``, ``od``, ``hexdump`` and ``hexdump -C`` make of a text: lines of an offset and some bytes.

    00000000: 736b 2d6c 6976 652d 3531 4878 5170 3061  sk-live-51HxQp0a        xxd
    00000000  73 6b 2d 6c 69 76 65 2d  35 31 48 78 51 70 30 61  |sk-live-…|   hexdump -C
    0000000 73 6b 2d 6c 69 76 65 2d 35 31 48 78 51 70 30 61                   od -t x1
    0000000 6b73 6c2d 7669 2d65                                               od -x, hexdump: the low byte comes second
    0000000   s   k   -   l   i   v   e   -   5   1   H   x                   od -c, and od -b with three digits for each byte
    0000000 065563 066055                                                     od: likewise, in octal

Without an offset these are hexadecimal digits with blanks between, which are found anyhow. No regular expressions,
since the process that uses this has to start fast.
"""

from __future__ import annotations

from collections.abc import Iterator

_HEX = b"0123456789abcdefABCDEF"
_OCTAL = b"01234567"
_LEAST_OFFSET, _MOST_OFFSET = 6, 16
_OCTAL_OFFSET = 7
_MOST_BYTES = 64  # of a line: who asks for wider ones does so on purpose
_ESCAPES = {b"\\0": 0, b"\\a": 7, b"\\b": 8, b"\\t": 9, b"\\n": 10, b"\\v": 11, b"\\f": 12, b"\\r": 13}

_MARKS = bytes(
    ord("h") if byte in _HEX else byte if byte == ord("\n") else ord(".") for byte in range(256)
)  # so that lines which begin as dumps do are found without looking at each
_BEGINNING = b"h" * _LEAST_OFFSET

Place = tuple[int, int]
"""A byte, and where in its line it begins."""


DumpedByte = tuple[int, int, int, int]
"""A byte of the text that was dumped: its value, where in the dump it stands, and where its line begins and ends."""


def dumped(text: bytes, *, last: bool) -> tuple[list[DumpedByte], int, bool]:
    """Return the bytes that the dump lines of *text* tell, and where an unfinished line begins that may be one.

    The latter is the length of the text if there is none; with it comes whether that line has more than a part of an
    offset. With *last*, nothing more will come.
    """
    found: list[DumpedByte] = []
    start = len(text) if last else text.rfind(b"\n") + 1
    for begin, end in _lines(text):
        if begin < start and _offset(text[begin:end]):
            found += [(value, begin + at, begin, end) for value, at in _bytes_of(text[begin:end])]
    rest = text[start:]
    if not rest or (len(rest) <= _MOST_OFFSET and _is(rest, _HEX)):
        return found, start, False
    size = _offset(rest)
    if not size:
        return found, len(text), False
    whole = rest[: rest.rfind(b" ") + 1]  # what comes next may belong to the last group
    told = [(value, start + at, start, len(text)) for value, at in _bytes_of(whole)] if len(whole) > size else []
    beginning = rest[size + 1 :].lstrip(b" ")
    if told or _is(beginning, _HEX) or rest[size : size + 3] == b"   ":
        return found + told, start, True
    return found, len(text), False


def _lines(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield where lines begin and end that may be a dump's."""
    marks = text.translate(_MARKS)
    at = 0 if marks.startswith(_BEGINNING) else marks.find(b"\n" + _BEGINNING) + 1
    while at or marks.startswith(_BEGINNING):
        end = marks.find(b"\n", at)
        yield at, len(text) if end < 0 else end
        at = marks.find(b"\n" + _BEGINNING, at) + 1
        if not at:
            return


def _offset(line: bytes) -> int:
    """Return the length of the offset that a line begins with, 0 if there is none."""
    size = 0
    while size < len(line) and size <= _MOST_OFFSET and line[size] in _HEX:
        size += 1
    return size if _LEAST_OFFSET <= size <= _MOST_OFFSET and line[size : size + 1] in (b":", b" ") else 0


def _bytes_of(line: bytes) -> Iterator[Place]:
    size = _offset(line)
    if line[size : size + 1] == b":":
        end = line.find(b"  ", size + 2)
        yield from _digits(line, size + 1, len(line) if end < 0 else end, low_first=False)
        return
    end = line.find(b"|")
    end = line.find(b"  >") if end < 0 else end
    end = len(line) if end < 0 else end
    fields = _fields(line, size, end) if size == _OCTAL_OFFSET and _is(line[:size], _OCTAL) else None
    yield from _digits(line, size, end, low_first=True) if fields is None else fields


def _digits(line: bytes, begin: int, end: int, *, low_first: bool) -> Iterator[Place]:
    """Yield what groups of two, four or more hexadecimal digits tell, or of six octal ones."""
    at = begin
    count = 0
    for group in line[begin:end].split(b" "):
        if group:
            if not _is(group, _HEX) or count >= _MOST_BYTES:
                return
            values = _values(group, low_first=low_first)
            for value in values:
                yield value, at
            count += len(values)
        at += len(group) + 1


def _values(group: bytes, *, low_first: bool) -> bytes:
    if len(group) == 6 and low_first and _is(group, _OCTAL):
        return (int(group, 8) & 0xFFFF).to_bytes(2, "little")
    if len(group) % 2:
        return b""
    data = bytes.fromhex(group.decode())
    return data[::-1] if low_first else data


def _fields(line: bytes, begin: int, end: int) -> list[Place] | None:
    """Return what fields of four characters tell, a character or three octal digits each; None if these are none."""
    found: list[Place] = []
    for at in range(begin, end - 3, 4):
        field = line[at : at + 4].lstrip(b" ") or b" "
        if line[at : at + 1] != b" " and found:
            return None
        if len(field) == 1:
            found.append((field[0], at))
        elif field in _ESCAPES:
            found.append((_ESCAPES[field], at))
        elif len(field) == 3 and _is(field, _OCTAL) and int(field, 8) < 256:
            found.append((int(field, 8), at))
        else:
            return None
    return found or None


def _is(text: bytes, digits: bytes) -> bool:
    return not text.translate(None, digits)
