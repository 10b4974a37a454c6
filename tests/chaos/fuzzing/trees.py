"""Plain trees made to hurt: DAGs of every field, and changes of any tree at places that chance decides.

Chance is a ``random.Random``, so that one seed repeats one tree.
"""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from random import Random
from typing import Any

DEEP = 400
IDS = (
    "a",
    "b",
    "proj-x-1",
    "user-7-x",
    "t.outputs.x",
    "..",
    "a..b",
    "-a",
    "",
    "x" * 128,
    "x" * 129,
    "é",
    "0x10",
    "1e3",
)
SCALARS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    7,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    -(2**64),
    10**30,
    10**4250,
    0.5,
    -0.0,
    1e308,
    5e-324,
    float("inf"),
    float("nan"),
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "\x1b[2J",
    "\u2028\u0085\r",
    "\ufeff",
    "💥",
    "~",
    "yes",
    "1:30",
    "2024-01-01",
    "0o7",
    "1_000",
    ".inf",
    "<<",
    "5m",
    "10 d",
    "9e9s",
    "-1s",
    "global",
    "project:",
    "project:p",
    "user:../x",
    "critical",
    "${tasks.a.outputs.x}",
    "${tasks.",
    "${tasks.a.outputs.x",
    "../../etc/passwd",
    "'; DROP TABLE dag_runs; --",
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"id": "a"},
    {"\0": 1},
    {"\ud800": 1},
    {"type": "project", "id": "p"},
)
ODD_TEXTS = (
    "\0",
    "a\0b",
    "\ud800",
    "x\udfff",
    "a\u2028b",
    "a\x85b",
    "a\rb",
    "\x1b[2J",
    "<<",
    "~",
    "1.10",
    "é",
    "💥",
    " a ",
    "",
)
COMMANDS: tuple[Any, ...] = ("true", "echo 1 | cat", ["true"], ["printf", "%s", "é", 7], "multi\nline\n", ": '#'")
KEYS = (
    "dag_id",
    "scope",
    "target_node",
    "priority",
    "description",
    "env",
    "max_parallel",
    "labels",
    "expires",
    "defaults",
    "tasks",
    "id",
    "command",
    "skill",
    "type",
    "params",
    "depends_on",
    "deps",
    "cwd",
    "timeout",
    "max_retries",
    "retry_delay",
    "retry_backoff",
    "on_lost",
    "max_losses",
    "secrets",
    "<<",
    "",
    "\ud800",
    "x" * 300,
    "__class__",
)


def seeded(seed: int) -> Random:
    """Return the chance that a seed stands for."""
    return Random(seed)  # noqa: S311 - it has to be the same again


def dag(chance: Random) -> dict[str, Any]:
    """Return a DAG that is accepted, nearly always, with fields that chance picks."""
    names = [f"t{number}" for number in range(chance.randint(1, 6))]
    plain: dict[str, Any] = {"dag_id": chance.choice(("d", "proj-x-nightly", "user-7-x", "backup-db", "a.b_c-1"))}
    fields: dict[str, Any] = {
        "scope": chance.choice(("global", "project:p", {"type": "user", "user_id": "u"})),
        "priority": chance.choice(("low", "HIGH", "medium", "urgent")),
        "description": chance.choice(("", "für alle", "line\nline", "yes", "#", "'\"\\", chance.choice(ODD_TEXTS))),
        "env": {chance.choice(("A", "PROJECT_ID", "LC_ALL")): chance.choice(("p", "1.10", 7, True, 1.5, "no", ""))},
        "max_parallel": chance.randint(1, 9),
        "labels": chance.choice(([], ["gpu"], ["gpu", "gpu", "1"])),
        "expires": chance.choice((1, "90m", 0.5)),
        "defaults": {"max_retries": chance.randint(0, 3), "timeout": "1h"},
        "target_node": chance.choice(("n2", None)),
    }
    plain |= {name: value for name, value in fields.items() if chance.random() < 0.3}
    plain["tasks"] = [_task(chance, number, names) for number in range(len(names))]
    if chance.random() < 0.3:
        chance.shuffle(plain["tasks"])
    return plain


def _task(chance: Random, number: int, names: list[str]) -> dict[str, Any]:
    before = chance.sample(names[:number], chance.randint(0, number))
    task: dict[str, Any] = {"id": names[number]}
    if chance.random() < 0.7:
        task["command"] = chance.choice(COMMANDS)
    else:
        key = chance.choice(("k", "k", chance.choice(ODD_TEXTS)))
        task |= {
            "skill": "http",
            "params": {"url": "http://x", key: chance.choice(ODD_TEXTS), "n": [1, 2.5, None, {"k": [True]}]},
        }
    fields: dict[str, Any] = {
        "depends_on": before,
        "env": {"B": f"${{tasks.{before[0]}.outputs.x}}" if before else "b"},
        "secrets": chance.choice((["API_KEY"], {"TOKEN": "api-key"}, {}, [])),
        "cwd": chance.choice(("/tmp", "sub dir", "~")),
        "timeout": chance.choice((5, "500ms", "1.5h", 0.25)),
        "max_retries": chance.randint(0, 5),
        "retry_delay": chance.choice((0, "10s", 1e-7, 5e-324)),
        "retry_backoff": chance.choice(("constant", "exponential")),
        "on_lost": chance.choice(("retry", "fail")),
        "max_losses": chance.randint(0, 5),
    }
    task |= {name: value for name, value in fields.items() if chance.random() < 0.4}
    if "${tasks." in str(task.get("env", "")):
        task["depends_on"] = before
    return task


def changed(tree: Any, chance: Random, *, times: int = 1) -> Any:
    """Return a copy of *tree* in which something is other than it should be, *times* times."""
    try:
        made = {"": copy.deepcopy(tree)}
    except RecursionError:
        return tree  # it is odd enough already
    for _ in range(times):
        with suppress(RecursionError):  # a copy of what was made too deep to be copied: it stays as it is
            _change(chance, *chance.choice(_places(made)), whole=made[""])
    return made[""]


def dumped(tree: Any) -> str:
    """Return a tree as JSON; one that is too deep to be written here as one that is deeper still."""
    try:
        return json.dumps(tree)
    except RecursionError:
        return "[" * 5000 + "]" * 5000


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every place of a tree as (what holds it, its key)."""
    found: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack and len(found) < 2000:
        holder = stack.pop()
        for key in range(len(holder)) if isinstance(holder, list) else list(holder):
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                stack.append(holder[key])
    return found


def _change(chance: Random, holder: Any, key: Any, *, whole: Any) -> None:
    value = holder[key]
    match chance.randint(0, 9):
        case 0 | 1 | 2:
            holder[key] = copy.deepcopy(chance.choice(SCALARS))
        case 3 if isinstance(value, dict):
            value[chance.choice(KEYS)] = copy.deepcopy(chance.choice(SCALARS))
        case 4 if isinstance(holder, dict) and key != "":
            holder[chance.choice(KEYS)] = holder.pop(key)
        case 5 if key != "":
            del holder[key]
        case 6 if isinstance(value, list) and value:
            value.append(copy.deepcopy(chance.choice(value)))
        case 7:
            other, name = chance.choice(_places({"": whole}))
            holder[key] = copy.deepcopy(other[name])
        case 8:
            for _ in range(chance.choice((1, 3, DEEP))):
                value = [value] if chance.random() < 0.5 else {"a": value}
            holder[key] = value
        case _:
            holder[key] = chance.choice(IDS)
