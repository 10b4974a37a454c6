"""From the text of an expression to its tree."""

from __future__ import annotations

from functools import lru_cache

from cis.model.cel.faults import CelSyntaxError
from cis.model.cel.functions import FUNCTIONS, LEFT_OUT, MACROS, METHODS
from cis.model.cel.lexer import Token, text_of, tokens
from cis.model.cel.nodes import (
    And,
    Call,
    Choice,
    Has,
    Index,
    ListOf,
    Literal,
    Loop,
    MapOf,
    Name,
    Node,
    Or,
    Select,
    height,
)
from cis.model.ids import counted, did_you_mean
from cis.model.task_kinds import MAX_EXPRESSION

MAX_NESTING = 32  # of its tree
_MOST_DIGITS = 30
_NO_VALUE = frozenset(
    (")", "]", "}", ",", ":", "?", ".", "!", "&&", "||", "==", "!=", "<", "<=", ">", ">=", "+", "*", "/", "%")
)
_CONSTANTS = {"true": True, "false": False, "null": None}
_RESERVED = frozenset(
    "as break const continue else for function if import in let loop package namespace return var void while".split()  # noqa: SIM905
)
_LEVELS = {
    **dict.fromkeys(("<", "<=", ">=", ">", "==", "!=", "in"), 0),
    **dict.fromkeys("+-", 1),
    **dict.fromkeys("*/%", 2),
}
_OTHERWISE = {"and": "&&", "or": "||", "not": "!", "is": "=="}


@lru_cache(maxsize=256)
def parse(text: str) -> Node:
    """Return the tree of *text*. Raises CelSyntaxError, a ValueError that names the place."""
    if len(text) > MAX_EXPRESSION:
        raise CelSyntaxError(f"the expression has {len(text):,} characters; {MAX_EXPRESSION:,} at most", text, 0)
    tree = _Parser(text).whole()
    if height(tree) > MAX_NESTING:
        raise CelSyntaxError(f"the expression is nested more than {MAX_NESTING} deep", text, tree.at)
    return tree


class _Parser:
    """Reads one expression; each method reads the part that its name says, from the next word on."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._place = 0
        self._next = self._tokens[0]
        self._depth = 0

    def whole(self) -> Node:
        node = self._expression()
        if self._next.kind != "end":
            raise self._fault(self._unexpected("an operator"), self._next)
        return node

    def _take(self) -> Token:
        token = self._next
        self._place += 1
        if token.kind != "end":
            self._next = self._tokens[self._place]
        return token

    def _takes(self, sign: str) -> bool:
        """Whether the next word is *sign*, which is passed then; a string has its quotes, so it is never one."""
        if self._next.word != sign:
            return False
        self._take()
        return True

    def _demand(self, sign: str) -> None:
        if not self._takes(sign):
            raise self._fault(self._unexpected(f'"{sign}"'), self._next)

    def _unexpected(self, wanted: str) -> str:
        token = self._next
        if token.kind == "end":
            return f"the expression ends where {wanted} is to follow"
        otherwise = _OTHERWISE.get(token.word)
        hint = f'; "{otherwise}" says that in CEL' if otherwise else ""
        return f"{token.word[:40]!r} stands where {wanted} is to follow{hint}"

    def _fault(self, message: str, token: Token) -> CelSyntaxError:
        return CelSyntaxError(message, self._text, token.at)

    def _expression(self) -> Node:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._fault(f"the expression is nested more than {MAX_NESTING} deep", self._next)
        node = self._either()
        if self._next.word == "?":
            at = self._take().at
            yes = self._either()
            self._demand(":")
            node = Choice(node, yes, self._expression(), at)
        self._depth -= 1
        return node

    def _either(self) -> Node:
        node, at = self._both(), self._next.at
        if self._next.word != "||":
            return node
        args = [node]
        while self._takes("||"):
            args.append(self._both())
        return Or(tuple(args), at)

    def _both(self) -> Node:
        node, at = self._binary(0), self._next.at
        if self._next.word != "&&":
            return node
        args = [node]
        while self._takes("&&"):
            args.append(self._binary(0))
        return And(tuple(args), at)

    def _binary(self, least: int) -> Node:
        """Read what operators of this level, or of one that binds more, hold together."""
        node = self._unary()
        while (level := _LEVELS.get(self._next.word, -1)) >= least:
            token = self._take()
            node = Call(token.word, (node, self._binary(level + 1)), token.at)
        return node

    def _unary(self) -> Node:
        first = self._next
        if first.word != "!" and first.word != "-":  # noqa: PLR1714 - asked for every value
            return self._member()
        count = 0
        while self._next.word == first.word:
            if first.word == "-" and self._tokens[self._place + 1].kind in ("int", "double"):
                break  # it belongs to the number
            self._take()
            count += 1
        operand = self._member()
        return Call(f"{first.word}_", (operand,), first.at) if count % 2 else operand

    def _member(self) -> Node:
        node = self._primary()
        while True:
            word, at = self._next.word, self._next.at
            if word == ".":
                self._take()
                node = self._selected(node, at)
            elif word == "[":
                self._take()
                node = Index(node, self._expression(), at)
                self._demand("]")
            else:
                return node

    def _selected(self, operand: Node, at: int) -> Node:
        token = self._next
        if token.kind != "name" or token.word in _CONSTANTS or token.word == "in":
            raise self._fault(self._unexpected("a name"), token)
        self._take()
        if not self._takes("("):
            return Select(operand, token.word, at)
        if token.word in MACROS:
            return self._loop(operand, token)
        args = self._listed(")")
        if token.word not in METHODS:
            near = did_you_mean(token.word, [*METHODS, *MACROS]) or f"; known: {', '.join([*METHODS, *MACROS])}"
            raise self._fault(f"there is no function .{token.word}(){near}", token)
        return self._call(token, (operand, *args), written=args, wanted=METHODS[token.word])

    def _loop(self, source: Node, token: Token) -> Node:
        at = self._next.at
        args = self._listed(")")
        most = 3 if token.word == "map" else 2
        if not 2 <= len(args) <= most:
            count = "2 or 3" if most == 3 else "2"
            raise self._fault(f"{token.word}() takes {count} arguments: a name, and an expression with it", token)
        if not isinstance(args[0], Name):
            raise CelSyntaxError(f"the first argument of {token.word}() is a name for each item", self._text, at)
        only = args[1] if len(args) == 3 else None
        return Loop(token.word, source, args[0].name, args[-1], only, token.at)

    def _primary(self) -> Node:
        token = self._next
        if token.kind == "end" or token.word in _NO_VALUE:
            raise self._fault(self._unexpected("a value"), token)
        self._take()
        match token.kind:
            case "text" | "raw":
                return Literal(text_of(token, self._text), token.at)
            case "int" | "double":
                return self._number(token, token.word)
            case "name":
                return self._named(token)
        match token.word:
            case "-" if self._next.kind in ("int", "double"):
                return self._number(token, f"-{self._take().word}")
            case "(":
                node = self._expression()
                self._demand(")")
                return node
            case "[":
                return ListOf(tuple(self._listed("]")), token.at)
            case "{":
                return self._map(token)
        raise self._fault(f"{token.word[:40]!r} stands where a value is to follow", token)

    def _number(self, token: Token, word: str) -> Node:
        follows = self._next
        if follows.kind == "name" and follows.at == self._tokens[self._place - 1].at + len(word.lstrip("-")):
            left_out = "; unsigned numbers are left out here" if follows.word in ("u", "U") else ""
            raise self._fault(f"{(word + follows.word)[:40]!r} is not a number{left_out}", token)
        if self._tokens[self._place - 1].kind == "double":
            return Literal(float(word), token.at)
        value = 2**64 if len(word) > _MOST_DIGITS else int(word, 16 if "x" in word else 10)
        if not -(2**63) <= value < 2**63:
            raise self._fault(f"{word:.40} has more than 64 bits", token)
        return Literal(value, token.at)

    def _named(self, token: Token) -> Node:
        word = token.word
        if word in _CONSTANTS:
            return Literal(_CONSTANTS[word], token.at)
        follows = self._next
        if word in ("b", "B", "br", "rb", "bR", "Rb") and follows.kind == "text" and follows.at == token.at + len(word):
            raise self._fault("bytes are left out here; write a string", token)
        if not self._takes("("):
            if word in _RESERVED:
                raise self._fault(f"{word!r} is a reserved word", token)
            return Name(word, token.at)
        at = self._next.at
        args = self._listed(")")
        if word == "has":
            if len(args) != 1 or not isinstance(args[0], Select):
                raise CelSyntaxError("has() takes one argument, which ends with .name", self._text, at)
            return Has(args[0].operand, args[0].field, args[0].at)
        if word not in FUNCTIONS:
            raise self._fault(_no_function(word), token)
        return self._call(token, tuple(args), written=args, wanted=FUNCTIONS[word])

    def _call(self, token: Token, args: tuple[Node, ...], *, written: list[Node], wanted: int) -> Node:
        if len(written) != wanted:
            raise self._fault(f"{token.word}() takes {counted(wanted, 'argument')}", token)
        return Call(token.word, args, token.at)

    def _listed(self, end: str) -> list[Node]:
        """Read expressions up to the sign *end*, with commas between them, and perhaps behind the last."""
        found: list[Node] = []
        while not self._takes(end):
            if found:
                self._demand(",")
                if end == "]" and self._takes(end):
                    break
            found.append(self._expression())
        return found

    def _map(self, token: Token) -> Node:
        pairs: list[tuple[Node, Node]] = []
        while not self._takes("}"):
            if pairs:
                self._demand(",")
                if self._takes("}"):
                    break
            key = self._expression()
            self._demand(":")
            pairs.append((key, self._expression()))
        return MapOf(tuple(pairs), token.at)


def _no_function(word: str) -> str:
    if word in METHODS or word in MACROS:
        return f"{word}() is written behind what it is about, as x.{word}(…)"
    if word in LEFT_OUT:
        return f"{word}() is left out here"
    known = [*FUNCTIONS, "has"]
    return f"there is no function {word}(){did_you_mean(word, known) or '; known: ' + ', '.join(known)}"
