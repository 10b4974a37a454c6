"""No form of a secret comes through, however the text is cut; every other text comes through as it is."""

from __future__ import annotations

import base64
import html
import json
import shlex
import subprocess
import urllib.parse
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cis.model.masking import GAPS, MAX_HELD, Masker, masked, without_gaps
from cis.model.secret_forms import MAX_BYTES, MAX_LINES, needles, value_fault
from tests.worlds.battery import size
from tests.worlds.debian import program

TOKEN = "hunter2-Ab+/9é"
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=4, max_size=40).filter(
    lambda value: value_fault(value) is None
)
LINES = st.lists(st.text("abcdefghij /+=%\"'\\<&é", min_size=5, max_size=30), min_size=2, max_size=4).map("\n".join)
ALPHABETS = st.sampled_from([base64.b64encode, base64.urlsafe_b64encode])
AROUND = st.binary(max_size=30) | st.sampled_from([b"", b"%", b"%4", b"'", b"x\n", b"***"])
CUTS = st.lists(st.integers(0, 400), max_size=12)


def fed(text: bytes, values: Sequence[str], cuts: Sequence[int]) -> bytes:
    """Return *text* as it comes out when it goes in as pieces; after each second one nothing comes for a moment."""
    masker = Masker(needles(values))
    shown = b""
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for number, (begin, end) in enumerate(pairwise(places)):
        shown += masker.feed(text[begin:end])
        if number % 2:
            shown += masker.idle()
    return shown + masker.close()


def folded(data: bytes, width: int, end: bytes) -> bytes:
    """Return *data* broken into lines."""
    return end.join(data[at : at + width] for at in range(0, len(data), width))


def escapes(value: str) -> list[bytes]:
    """Return a value as other programs write it."""
    data = value.encode()
    return [
        data,
        folded(data, 3, b"\n"),
        folded(data, 5, b"\r\n    "),
        json.dumps(value).encode(),
        json.dumps(value, ensure_ascii=False).encode(),
        shlex.quote(value).encode(),
        repr(value).encode(),
        ascii(value).encode(),
        html.escape(value).encode(),
        data.hex().encode(),
        data.hex().upper().encode(),
        data.hex(" ").encode(),
        urllib.parse.quote(value).encode(),
        urllib.parse.quote(value, safe="").encode(),
        urllib.parse.quote_plus(value).encode(),
        b"".join(b"%%%02x" % byte for byte in data),
        folded(b"".join(b"%%%02X" % byte for byte in data), 7, b"\n"),
    ]


@settings(max_examples=size(100, 10_000), deadline=None)
@given(VALUES | LINES, AROUND, AROUND, CUTS)
@example(TOKEN, b"", b"", [1, 2, 3])
@example("deadbeef/x", b"100%", b"", [])
def test_no_escaped_form_of_a_secret_comes_through(value: str, before: bytes, after: bytes, cuts: list[int]) -> None:
    assume(value_fault(value) is None)
    for form in escapes(value):
        if len(without_gaps(form)) < 4:
            continue
        shown = fed(before + form + after, [value], cuts)

        assert b"***" in shown
        if len(form) > 8 and form not in before + b"***" + after:
            assert form not in shown


@settings(max_examples=size(100, 10_000), deadline=None)
@given(VALUES, st.binary(max_size=10), st.binary(max_size=10), CUTS, st.integers(4, 80), ALPHABETS)
def test_no_base64_that_a_secret_is_part_of_comes_through(
    value: str, before: bytes, after: bytes, cuts: list[int], width: int, encode: Callable[[bytes], bytes]
) -> None:
    whole = before + value.encode() + after
    text = encode(whole)
    begin, end = -(-8 * len(before) // 6), 8 * (len(before) + len(value.encode())) // 6
    assume(len(text[begin:end].translate(None, b"+")) >= 4)
    for form in (text, folded(text, width, b"\n"), folded(text, width, b"\r\n  "), urllib.parse.quote(text).encode()):
        shown = fed(form, [value], cuts)

        assert b"***" in shown
        assert text[begin:end] not in without_gaps(shown) or text[begin:end] in text[:begin] + text[end:]


@settings(max_examples=size(100, 10_000), deadline=None)
@given(VALUES, st.lists(st.integers(0, 2)), CUTS)
def test_no_partly_percent_encoded_secret_comes_through(value: str, how: list[int], cuts: list[int]) -> None:
    data = value.encode()
    how = (how + [0] * len(data))[: len(data)]
    ways = (b"%c", b"%%%02X", b"%%%02x")
    text = b"a=" + b"".join(ways[way] % byte for way, byte in zip(how, data, strict=True)) + b"&b=1"

    shown = fed(text, [value], cuts)

    assert b"***" in shown
    assert data not in urllib.parse.unquote_to_bytes(shown) or len(data) < 8


@settings(max_examples=size(100, 10_000), deadline=None)
@given(st.lists(VALUES | LINES, min_size=1, max_size=3), st.binary(max_size=400), CUTS)
@example([TOKEN], b"hunter2-h%6\n8%\n\n  h", [1, 9, 10, 11, 12])
def test_a_text_without_secrets_comes_through_byte_for_byte(values: list[str], text: bytes, cuts: list[int]) -> None:
    look = needles(values)
    bare = without_gaps(text)
    decoded = without_gaps(urllib.parse.unquote_to_bytes(bare))
    assume(not any(needle in bare or needle in decoded for needle in look))

    assert fed(text, values, cuts) == text


@given(st.text("abAB \n%2", min_size=1, max_size=300), CUTS)
def test_where_a_text_is_cut_changes_nothing_of_what_is_left(text: str, cuts: list[int]) -> None:
    whole = masked(text.encode(), needles(["abAb"]))

    shown = fed(text.encode(), ["abAb"], cuts)

    assert shown.replace(b"***", b"").replace(b"a", b"") == whole.replace(b"***", b"").replace(b"a", b"")


DUMPS = [
    "xxd",
    "xxd -u -g1",
    "xxd -c 8",
    "hexdump",
    "hexdump -C",
    "od",
    "od -b",
    "od -c",
    "od -x",
    "od -t x1",
    "od -t x1z",
    "od -A x -t x1z",
]


@pytest.mark.parametrize("tool", DUMPS)
@pytest.mark.parametrize("before", [b"", b"a", b"DB_PASSWORD=", b"x" * 100])
def test_no_dump_of_a_secret_comes_through_at_whatever_place_and_however_it_is_cut(tool: str, before: bytes) -> None:
    """With offsets and, beside the bytes, the characters; the rest of the dump is there."""
    program(tool.partition(" ")[0])
    secret = 'Zq7#kP"9w$mX/é+Lr2@vB-and-more-than-a-line'
    made = subprocess.run(
        tool.split(), input=before + secret.encode() + b"\n" + b"y" * 40, capture_output=True, check=True
    )
    whole = fed(made.stdout, [secret], [])
    letters = "".join(whole.decode(errors="replace").split())

    assert b"***" in whole
    assert whole.endswith(made.stdout[-20:])
    for at in range(len(secret) - 5):
        piece = secret[at : at + 5].encode()
        assert piece.decode() not in letters
        assert piece.hex() not in letters.lower()
    for every in (1, 2, 7, 50):
        assert fed(made.stdout, [secret], range(0, len(made.stdout), every)) == whole


@given(
    text=st.lists(
        st.sampled_from([b"0000000", b"00000010:", b" ", b"  ", b"73", b"6b 2d", b"\n", b"|s", b"zz"]), max_size=30
    )
)
def test_what_looks_like_a_dump_comes_through_byte_for_byte(text: list[bytes]) -> None:
    data = b"".join(text)

    assert fed(data, ["correct-horse"], range(0, len(data), 3)) == data


SECRET = 'p"ss\\w&rd <é> 100%+😀'
UTF_16 = ("utf-16-le", "utf-16-be")


@pytest.mark.parametrize(
    "text",
    [
        *(json.dumps({"password": SECRET}, ensure_ascii=ascii_only).encode() for ascii_only in (True, False)),
        *(urllib.parse.quote(SECRET, safe=safe).encode() for safe in ("", "/")),
        urllib.parse.urlencode({"password": SECRET}).encode(),
        *(SECRET.encode(form) for form in UTF_16),
    ],
    ids=["json", "json with letters", "url", "path", "form", *UTF_16],
)
@pytest.mark.parametrize("encode", [bytes, base64.b64encode, base64.urlsafe_b64encode, bytes.hex])
def test_a_secret_is_found_in_what_was_encoded_as_a_whole(text: bytes, encode: Callable[[bytes], bytes | str]) -> None:
    encoded = encode(b"user=" + text + b";end")
    data = encoded.encode() if isinstance(encoded, str) else encoded

    assert b"***" in fed(data, [SECRET], range(0, len(data), 5))


@pytest.mark.parametrize(
    "written",
    [
        "".join(f"&#{ord(char)};" for char in SECRET),
        "".join(f"&#x{ord(char):X};" for char in SECRET),
        html.escape(SECRET).encode("ascii", "xmlcharrefreplace").decode(),
        ":".join(f"{byte:02X}" for byte in SECRET.encode()),
        "".join(f"\\x{byte:02x}" for byte in SECRET.encode()),
        "".join(f"\\{byte:03o}" for byte in SECRET.encode()),
        str(list(SECRET.encode())),
    ],
)
def test_a_secret_is_found_when_its_characters_or_bytes_are_numbers(written: str) -> None:
    shown = fed(f"before {written} after".encode(), [SECRET], range(0, 500, 3))

    assert b"***" in shown
    assert len(shown) <= len("before *** after") + 8


def test_each_line_of_a_secret_is_one() -> None:
    assert fed(b"found second-line here", ["first-line\nsecond-line\n"], []) == b"found *** here"


def test_what_may_be_the_beginning_of_a_secret_waits_for_what_follows() -> None:
    masker = Masker(needles([TOKEN]))

    assert masker.feed(b"it is hunt") == b"it is "
    assert masker.idle() == b""
    assert masker.feed(b"ing!") == b"hunting!"


def test_a_single_character_is_let_go_of_when_nothing_comes_and_the_rest_is_masked_all_the_same() -> None:
    masker = Masker(needles([TOKEN]))

    assert masker.feed(b"such\n") == b"suc"
    assert masker.restless
    assert masker.idle() == b"h\n"
    assert masker.feed(TOKEN.encode()[1:]) + masker.close() == b"***"


def test_gaps_without_end_do_not_fill_the_memory() -> None:
    masker = Masker(needles([TOKEN]))
    masker.feed(b"hu")
    for _ in range(40):
        masker.feed(b"\n" * 2**16)

    assert len(masker._held) <= MAX_HELD + 2**16 + 16 * 200


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("abc", "too short"),
        ("", "too short"),
        ("a b'c\"\\+ +", "too short"),
        ("a" * (MAX_BYTES + 1), "longer than"),
        ("abcd\n" * (MAX_LINES + 2), "lines"),
        ("abc\0defg", "NUL"),
    ],
)
def test_what_cannot_be_masked_is_refused_in_words_without_it(value: str, fault: str) -> None:
    told = value_fault(value)

    assert told is not None
    assert fault in told
    assert not value or value not in told


@given(VALUES)
def test_every_needle_is_without_gaps_and_long_enough(value: str) -> None:
    found = needles([value])

    assert without_gaps(value.encode()) in found
    assert all(len(needle) >= 4 and not set(needle) & set(GAPS) for needle in found)
