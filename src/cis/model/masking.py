"""Replaces secrets in a text by ``***`` while the text goes by, whatever pieces it comes in.

What is looked for (``cis.model.secret_forms``) is compared without *gaps*: blanks, line ends, quotes, backslashes and
plus signs count for nothing in either, so a value that is wrapped, indented, quoted or escaped is still found. A second
look takes ``%41`` for the byte that it stands for. Both looks only take bytes away or put one in place of three, so
whatever stands around a value cannot hide it. A third reads back what tools such as ``xxd`` print
(``cis.model.dumps``), and masks the lines to their ends, where the same bytes stand as characters.

A piece may end within a secret. What could be the beginning of one is therefore held back until it is known what
follows; ``idle`` lets go of it for readers who wait, if it is a single character, and remembers that it did.

Used by a process that has to start fast, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress

from cis.model.dumps import dumped

MASK = b"***"
GAPS = b" \t\r\n\v\f\\'\"+"
SHORTEST = 4  # bytes of a needle; fewer are in every text
MAX_HELD = 1 << 20
_KEPT = bytes(byte not in GAPS for byte in range(256))
_BYTES = {
    (high + low).encode(): bytes([int(high + low, 16)])
    for high in "0123456789abcdefABCDEF"
    for low in "0123456789abcdefABCDEF"
}
_Span = tuple[int, int]


class Masker:
    """One text as it goes by. *needles* are free of gaps and have ``SHORTEST`` bytes at least."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        self._needles = needles
        self._most_held = MAX_HELD + 16 * max(map(len, needles), default=0)
        self._held = b""
        self._done = 0  # bytes of what is held that were let go of already, as they are or as a mask
        self._weak = False

    @property
    def restless(self) -> bool:
        """Whether ``idle`` would let go of something."""
        return self._weak and self._done < len(self._held)

    def feed(self, data: bytes) -> bytes:
        """Take in what comes next; return what can be shown."""
        text = self._held + data
        spans: list[_Span] = []
        hold, weak = len(text), True
        for view in _views(text, last=False):
            spans += view.spans(self._needles)
            begin, at_most_one = view.open_end(self._needles)
            hold, weak = min(hold, begin), weak and at_most_one
        weak = weak and all(end <= hold for _, end in spans)
        shown, cut = self._shown(text, spans, hold)
        self._held, self._done, self._weak = text[hold:], cut - hold, weak
        if len(self._held) > self._most_held:  # gaps without end, after what may be a beginning
            shown += MASK
            self._held, self._done = b"", 0
        return shown

    def idle(self) -> bytes:
        """Return what is held back for a single character only; call it when nothing came for a moment."""
        if not self.restless:
            return b""
        shown = self._held[self._done :]
        self._done = len(self._held)
        return shown

    def close(self) -> bytes:
        """Return the rest: nothing more will come."""
        text = self._held
        spans = [span for view in _views(text, last=True) for span in view.spans(self._needles)]
        shown, _ = self._shown(text, spans, len(text))
        self._held, self._done = b"", 0
        return shown

    def _shown(self, text: bytes, spans: list[_Span], cut: int) -> tuple[bytes, int]:
        """Return *text* from where it was done up to *cut* or the end of the mask over *cut*, and that place."""
        parts: list[bytes] = []
        at = self._done
        for begin, end in _merged(spans):
            if begin >= cut:
                break
            cut = max(cut, end)
            if end > at:
                parts += (text[at:begin], MASK)
                at = end
        parts.append(text[at:cut])
        return b"".join(parts), max(at, cut)


def masked(data: bytes, needles: Sequence[bytes]) -> bytes:
    """Return a whole text with its secrets masked."""
    masker = Masker(needles)
    return masker.feed(data) + masker.close()


def without_gaps(text: bytes) -> bytes:
    """Return *text* as it is compared."""
    return text.translate(None, GAPS)


class _Plain:
    """A text without its gaps."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.compared = without_gaps(text)

    def spans(self, needles: Sequence[bytes]) -> list[_Span]:
        found = list(_found(self.compared, needles))
        if not found:
            return []
        places = self.places()
        return [(places[begin], places[end - 1] + 1) for begin, end in found]

    def open_end(self, needles: Sequence[bytes]) -> tuple[int, bool]:
        """Return where the part of a needle begins with which the text ends, and whether it is one byte at most."""
        left = _longest_beginning(self.compared, needles)
        return _counted_back(self._text, left), left <= 1

    def places(self) -> list[int]:
        """Return where each byte that is compared stands in the text."""
        return list(compress(range(len(self._text)), self._text.translate(_KEPT)))


class _Decoded:
    """A text without its gaps in which each ``%41`` is one byte."""

    def __init__(self, plain: _Plain, text: bytes) -> None:
        self._plain = plain
        self._end = len(text)
        first, *parts = plain.compared.split(b"%")
        self._unfinished = len(parts[-1]) < 2 and parts[-1] + b"0" * (2 - len(parts[-1])) in _BYTES
        self._left_out = 1 + len(parts.pop()) if self._unfinished else 0
        self._first, self._parts = first, parts
        self._whole = b"".join([first, *(_decoded(part) for part in parts)])
        self.compared = without_gaps(self._whole)

    def spans(self, needles: Sequence[bytes]) -> list[_Span]:
        found = list(_found(self.compared, needles))
        if not found:
            return []
        places, outer = self._places(), self._plain.places()
        return [(outer[places[begin][0]], outer[places[end - 1][1]] + 1) for begin, end in found]

    def open_end(self, needles: Sequence[bytes]) -> tuple[int, bool]:
        """Return where the beginning of a needle, or of an escape, begins with which the text ends."""
        left = _longest_beginning(self.compared, needles)
        if not left and not self._left_out:
            return self._end, True
        outer = self._plain.places()
        if not left:
            return outer[-self._left_out], True
        return outer[self._places()[-left][0]], left <= 1

    def _places(self) -> list[_Span]:
        """Return the first and the last place, without gaps, of each byte that is compared."""
        places = [(at, at) for at in range(len(self._first))]
        at = len(self._first)
        for part in self._parts:
            end = at + 1 + len(part)
            if part[:2] in _BYTES:
                places.append((at, at + 2))
                at += 3
            places += [(each, each) for each in range(at, end)]
            at = end
        return list(compress(places, self._whole.translate(_KEPT)))


class _Dumped:
    """What the dump lines of a text tell, without its gaps.

    In the line in which a needle ends the same bytes may stand as characters, so it is masked to its end, once that is
    there.
    """

    def __init__(self, text: bytes, *, last: bool) -> None:
        told, self._unfinished, self._certain = dumped(text, last=last)
        whole = bytes([value for value, _, _, _ in told])
        self.compared = without_gaps(whole)
        self._told = list(compress(told, whole.translate(_KEPT)))
        self._pending = len(text)
        self.says_nothing = not told and self._unfinished == len(text)

    def spans(self, needles: Sequence[bytes]) -> list[_Span]:
        spans = []
        for begin, end in _found(self.compared, needles):
            _, at, first_line, _ = self._told[begin]
            _, _, last_line, line_end = self._told[end - 1]
            if last_line == self._unfinished:
                self._pending = min(self._pending, first_line)
            else:
                spans.append((at, line_end))
        return spans

    def open_end(self, needles: Sequence[bytes]) -> tuple[int, bool]:
        """Return where the line begins in which what is open begins: a needle, or a line that is not whole yet."""
        left = _longest_beginning(self.compared, needles)
        begin = min(self._pending, self._unfinished)
        return min(self._told[-left][2], begin) if left else begin, left <= 1 and not self._certain


def _views(text: bytes, *, last: bool) -> Iterator[_Plain | _Decoded | _Dumped]:
    plain = _Plain(text)
    yield plain
    if b"%" in text:
        yield _Decoded(plain, text)
    dump = _Dumped(text, last=last)
    if not dump.says_nothing:
        yield dump


def _decoded(part: bytes) -> bytes:
    """Return what stands after a percent sign with its first two digits as a byte, or as it is."""
    byte = _BYTES.get(part[:2])
    return b"%" + part if byte is None else byte + part[2:]


def _found(text: bytes, needles: Sequence[bytes]) -> Iterator[_Span]:
    for needle in needles:
        at = text.find(needle)
        while at >= 0:
            yield at, at + len(needle)
            at = text.find(needle, at + 1)


def _longest_beginning(text: bytes, needles: Sequence[bytes]) -> int:
    """Return how many bytes at the end of *text* are the beginning of a needle."""
    return max((_beginning(text, needle) for needle in needles), default=0)


def _beginning(text: bytes, needle: bytes) -> int:
    begin = max(0, len(text) - len(needle) + 1)
    head = needle[:SHORTEST]
    at = text.find(head, begin)
    while at >= 0:
        if needle.startswith(text[at:]):
            return len(text) - at
        at = text.find(head, at + 1)
    for at in range(max(begin, len(text) - SHORTEST + 1), len(text)):
        if needle.startswith(text[at:]):
            return len(text) - at
    return 0


def _counted_back(text: bytes, count: int) -> int:
    """Return where the last *count* bytes of *text* begin, gaps not counted."""
    at = len(text)
    while count:
        at -= 1
        count -= _KEPT[text[at]]
    return at


def _merged(spans: Iterable[_Span]) -> Iterator[_Span]:
    """Yield what *spans* cover, in order, each stretch once."""
    begin = end = -1
    for span in sorted(spans):
        if span[0] >= end:
            if end > begin:
                yield begin, end
            begin, end = span
        end = max(end, span[1])
    if end > begin:
        yield begin, end
