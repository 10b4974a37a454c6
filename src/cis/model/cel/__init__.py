"""CEL, the Common Expression Language, as far as ``docs/reference/conditions.md`` says: a parser, a checker, an evaluator.

An expression is a text, then a tree (``parser``, ``nodes``), which is checked against the names that it may use
(``checker``) and evaluated over JSON values (``evaluator``). Nothing here reads a clock or a file. Each step is bounded,
whatever the data: the text's length, the depth of the tree, the steps of an evaluation and what it makes.

Semantics are those of Google's C++ runtime, which a test compares. What is left out is refused by name: unsigned numbers,
bytes, times, types as values, messages.

Source: https://github.com/google/cel-spec/blob/master/doc/langdef.md
"""
