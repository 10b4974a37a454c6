"""Random documents with parameters, outputs, references, exit statuses and children, against a small model of their own.

Each run has to come to rest with every task where the model has it, and every value with the type that it began with. The
model knows nothing of the program: it is written from the contract.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.worlds.battery import LONG
from tests.worlds.harness import Sandbox, write_dag

SEEDS = range(40) if LONG else range(3)
LETTERS = "ab zä'\"$`\\;|&{}%\n\t*?~é€"


class Made(NamedTuple):
    """A task that has put something out: its id, and the value that others may refer to by ``way``."""

    task_id: str
    name: str
    value: Any


def a_value(rng: random.Random, *, depth: int = 0) -> Any:
    """Return any JSON value."""
    kinds = ["text", "whole", "number", "flag", "null", *(["list", "object"] if depth < 3 else [])]
    match rng.choice(kinds):
        case "text":
            return "".join(rng.choices(LETTERS, k=rng.randint(0, 12)))
        case "whole":
            return rng.choice((0, -1, 7, 2**53 - 1))
        case "number":
            return rng.choice((0.5, -2.25, 1e300))
        case "flag":
            return rng.random() < 0.5
        case "null":
            return None
        case "list":
            return [a_value(rng, depth=depth + 1) for _ in range(rng.randint(0, 4))]
    names = sorted(rng.choice("kmn") + str(place) for place in range(rng.randint(0, 3)))  # as they are stored
    return {name: a_value(rng, depth=depth + 1) for name in names}


def text_of(value: Any) -> str:
    """Return a value as text: null is empty, what is no text compact JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def reach(rng: random.Random, value: Any) -> tuple[str, Any]:
    """Return a way into a value, as references spell it, and what is there."""
    way = ""
    while isinstance(value, list | dict) and value and rng.random() < 0.6:
        if isinstance(value, list):
            place = rng.randrange(len(value))
            way, value = f"{way}[{place}]", value[place]
        else:
            key = rng.choice(sorted(value))
            way, value = (f"{way}.{key}" if rng.random() < 0.5 else f'{way}["{key}"]'), value[key]
    return way, value


class Model:
    """A document while it is drawn, and what has to become of it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.params = {f"p{number}": a_value(rng) for number in range(3)}
        self.tasks: list[dict[str, Any]] = []
        self.made: list[Made] = []
        self.states: dict[str, tuple[str, str | None]] = {}
        self.outputs: dict[str, dict[str, Any]] = {}
        self.says: dict[str, str] = {}

    def add(self) -> None:
        """Add a task of a random kind, after some of those that are there."""
        number = len(self.tasks)
        before = [task["id"] for task in self.tasks if self.rng.random() < 0.15]
        draw = self.rng.choice((self._writes, self._writes, self._tells, self._tells, self._ends, self._child))
        task_id, task = f"t{number}", draw(f"t{number}")
        task = {"id": task_id, **task}
        needed = {*before, *task.pop("needs", ())}
        if needed:
            task["depends_on"] = sorted(needed)
        self.tasks.append(task)
        self._judge(task_id, needed)

    def _judge(self, task_id: str, needed: set[str]) -> None:
        failed = any(self.states[one][0] in ("failed", "skipped!") for one in needed)
        skipped = any(self.states[one][0] == "skipped" for one in needed)
        if failed:
            self.states[task_id] = ("skipped!", "upstream_failed")
        elif skipped:
            self.states[task_id] = ("skipped", "upstream_skipped")
        if failed or skipped:
            self.outputs.pop(task_id, None)
            self.says.pop(task_id, None)
            self.made = [one for one in self.made if one.task_id != task_id]

    def _reference(self) -> tuple[str, Any, list[str]]:
        """Return a reference, what it stands for, and the task that it needs."""
        if self.made and self.rng.random() < 0.7:
            one = self.rng.choice(self.made)
            way, value = reach(self.rng, one.value)
            return f"${{tasks.{one.task_id}.outputs.{one.name}{way}}}", value, [one.task_id]
        name = self.rng.choice(sorted(self.params))
        way, value = reach(self.rng, self.params[name])
        return f"${{params.{name}{way}}}", value, []

    def _writes(self, task_id: str) -> dict[str, Any]:
        """A task that puts out one value: as a JSON object, a line, a block, or what it writes."""
        value = a_value(self.rng)
        self.states[task_id] = ("completed", None)
        if not isinstance(value, str):
            script = 'printf %s "$IT" > "$CIS_OUTPUT"'
            it = json.dumps({"v": value})
        elif "\n" in value or self.rng.random() < 0.5:
            script, it = 'printf "v<<END OF IT\\n%s\\nEND OF IT\\n" "$IT" > "$CIS_OUTPUT"', value
        else:
            script, it = 'printf "v=%s\\n" "$IT" > "$CIS_OUTPUT"', value
        self.made.append(Made(task_id, "v", value))
        self.outputs[task_id] = {"v": value}
        return {"command": script, "env": {"IT": it.replace("${", "$${") if "${tasks" in it else it}}

    def _tells(self, task_id: str) -> dict[str, Any]:
        """A task that writes what it is given by a reference: as a variable, an argument, its input, or in longer text."""
        reference, value, needs = self._reference()
        text = text_of(value)
        self.states[task_id] = ("completed", None)
        match self.rng.randrange(4):
            case 0:
                task, said = {"command": 'printf %s "$IT"', "env": {"IT": reference}}, text
            case 1:
                task, said = {"command": ["printf", "%s", reference]}, text
            case 2:
                task, said = {"command": "cat", "stdin": reference}, text
            case _:
                task, said = {"command": ["printf", "%s", f"<{reference}>"]}, f"<{text}>"
        self.says[task_id] = said
        return {**task, "needs": needs}

    def _ends(self, task_id: str) -> dict[str, Any]:
        """A task that ends with an exit status that may mean something."""
        code = self.rng.choice((0, 3, 9))
        task: dict[str, Any] = {"command": f"exit {code}"}
        means: dict[str, Any] = {
            "success_codes": [0, 3],
            "skip_codes": [9],
            "allow_failure": self.rng.choice((True, {"exit_codes": [3]})),
        }
        chosen = {name: means[name] for name in means if self.rng.random() < 0.4}
        if "success_codes" in chosen and "allow_failure" in chosen:
            chosen["allow_failure"] = True  # a status stands in one list alone
        if code in chosen.get("success_codes", [0]):
            self.states[task_id] = ("completed", None)
        elif code in chosen.get("skip_codes", ()):
            self.states[task_id] = ("skipped", "code")
        elif chosen.get("allow_failure") is True or code in (chosen.get("allow_failure") or {}).get("exit_codes", ()):
            self.states[task_id] = ("allowed", None)
        else:
            self.states[task_id] = ("failed", None)
        return {**task, **chosen}

    def _child(self, task_id: str) -> dict[str, Any]:
        """A DAG as a task that hands up, with its type, what it was given."""
        reference, value, needs = self._reference()
        kind = {"required": False} if value is None else {}
        names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
        declared = {"type": names.get(type(value), "string"), **kind}
        document = {
            "dag_id": f"child-{task_id}",
            "params": {"given": declared},
            "outputs": {"back": "${params.given}", "text": "got ${params.given}"},
            "tasks": [{"id": "none", "command": "true"}],
        }
        back = {"back": value, "text": f"got {text_of(value)}"}
        self.states[task_id] = ("completed", None)
        self.outputs[task_id] = back
        self.made.append(Made(task_id, "back", value))
        return {"skill": "dag", "params": {"document": document, "params": {"given": reference}}, "needs": needs}

    def document(self, seed: int) -> dict[str, Any]:
        """Return the whole document."""
        declared = {name: {"type": _kind(value), "required": False} for name, value in self.params.items()}
        return {"dag_id": f"random-{seed}", "params": declared, "tasks": self.tasks}


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "string")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_document_comes_to_rest_where_a_small_model_has_it_and_keeps_the_types_of_its_values(
    sandbox: Sandbox, tmp_path: Path, seed: int
) -> None:
    model = Model(random.Random(seed))  # noqa: S311 - a test
    for _ in range(24):
        model.add()
    given = [f"{name}:={json.dumps(value)}" for name, value in model.params.items()]
    typed = [word for one in given for word in ("-p", one)]
    path = write_dag(tmp_path, model.document(seed))

    done = sandbox.cis("dag", "run", path, *typed, "--wait", "--json")
    failed = any(state == "failed" for state, _ in model.states.values())

    assert done.returncode == (1 if failed else 0), done.stdout + done.stderr
    run = sandbox.json("dag", "status", f"random-{seed}")["runs"][0]
    logs = {log["task_id"]: log["output"] for log in sandbox.json("dag", "logs", f"random-{seed}")}

    assert run["params"] == model.params
    for task in run["tasks"]:
        state, reason = model.states[task["id"]]
        told = (task["status"], task["skip_reason"], task["failure_allowed"])
        wanted = {"allowed": "failed", "skipped!": "skipped"}.get(state, state)
        assert told == (wanted, reason, state == "allowed"), (seed, task)
        outputs = {name: value for name, value in task["outputs"].items() if name != "run_id"}
        assert json.dumps(outputs) == json.dumps(model.outputs.get(task["id"], {})), (seed, task["id"])
        if task["id"] in model.says:
            assert logs.get(task["id"], "") == model.says[task["id"]], (seed, task["id"])
