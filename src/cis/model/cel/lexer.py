"""The words of an expression."""

from __future__ import annotations

import re
from typing import NamedTuple

from cis.model.cel.faults import CelSyntaxError

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n\f]+|//[^\n]*)
    | (?P<raw>[rR](?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|"[^"\r\n]*"|'[^'\r\n]*'))
    | (?P<text>\"\"\"(?:[^\\]|\\[\s\S])*?\"\"\"|'''(?:[^\\]|\\[\s\S])*?'''|"(?:[^"\\\r\n]|\\.)*"|'(?:[^'\\\r\n]|\\.)*')
    | (?P<double>[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?)
    | (?P<int>0x[0-9a-fA-F]+|[0-9]+)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]{}])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|([\s\S]))")
_MEANS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"} | {one: one for one in "\\?\"'`"}
_OTHERWISE = {
    "=": 'is not an operator; "==" compares',
    "&": 'is not an operator; "&&" is and',
    "|": 'is not an operator; "||" is or',
    "$": "has no place here: names are written without ${…}, as params.NAME",
    "`": 'has no place here; a name with other characters is written x["a-name"]',
}


class Token(NamedTuple):
    """One word: a kind (``text``, ``double``, ``int``, ``name``, ``sign``, ``end``), how it is written, and where."""

    kind: str
    word: str
    at: int


def tokens(text: str) -> list[Token]:
    """Return the words of *text*, then one of kind ``end``. Raises CelSyntaxError."""
    at = 0
    found: list[Token] = []
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if start != at:
            break
        at = end
        kind = match.lastgroup
        if kind != "space":
            found.append(Token(str(kind), match[0], start))
    if at < len(text):
        raise CelSyntaxError(_fault(text, at), text, at)
    found.append(Token("end", "", at))
    return found


def text_of(token: Token, text: str) -> str:
    """Return the string that a token of kind ``text`` or ``raw`` spells. Raises CelSyntaxError."""
    word = token.word[1:] if token.kind == "raw" else token.word
    ends = 3 if word.startswith(('"""', "'''")) and len(word) >= 6 else 1
    inside = word[ends:-ends]
    if token.kind == "raw" or "\\" not in inside:
        return inside
    start = token.at + ends

    def meant(found: re.Match[str]) -> str:
        digits = found[1] or found[2] or found[3]
        code = int(digits, 16) if digits else int(found[4], 8) if found[4] else None
        if code is None:
            if found[5] not in _MEANS:
                raise CelSyntaxError(f"\\{found[5]} is not an escape; \\\\ is a backslash", text, start + found.start())
            return _MEANS[found[5]]
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise CelSyntaxError(f"{found[0]} is not a character", text, start + found.start())
        return chr(code)

    return _ESCAPE.sub(meant, inside)


def _fault(text: str, at: int) -> str:
    char = text[at]
    if char in "\"'":
        return "this string has no end on its line"
    return f"{char!r} {_OTHERWISE.get(char, 'has no place here')}"
