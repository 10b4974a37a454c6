"""One attempt at a task, prepared: its arguments, environment, directory and files.

The environment is the few variables of the node that every task may see, then what the skill sets, the scope's, the
DAG's own, the task's, its secrets, and last the ``CIS_…`` that say which attempt this is; nothing can override those.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cis.engine.logfiles import LogFiles, script_beside
from cis.engine.outputs import forget_outputs
from cis.engine.ports import (
    PLAIN_SHELL,
    STRICT_SHELL,
    ChildDag,
    Command,
    Launch,
    SecretBook,
    SkillBook,
    StrPath,
    Wait,
    attempt_handle,
)
from cis.engine.run.handling import told
from cis.engine.run.plan import RunPlan
from cis.engine.run.values import Values
from cis.errors import CisError, LaunchError
from cis.model.dag import COMMAND_SKILL, SHELL_PARAM, Json, OnLost, TaskSpec
from cis.model.relations import OPENING_OF_SECRET
from cis.model.secret_forms import needles
from cis.model.task_kinds import FILE
from cis.store.records import AttemptRecord

PASSED_ON = ("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR")


def base_environment(environ: Mapping[str, str], *, pass_env: Sequence[str]) -> dict[str, str]:
    """Return what tasks see of the node's environment: the fixed few, ``LC_*``, and what settings name.

    Python writes at once. ``HOME`` is the user's also where the node was started without one, as service managers and cron do.
    The command ``cis`` that runs this is found, behind all else that ``PATH`` has.
    """
    names = {*PASSED_ON, *pass_env}
    passed = {"PYTHONUNBUFFERED": "1"}  # else Python keeps 8 KiB back from the log, and loses them when it is killed
    passed |= {name: value for name, value in environ.items() if name in names or name.startswith("LC_")}
    if not passed.get("HOME"):
        with suppress(KeyError):  # a user without an entry, as containers have
            passed["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
    folder, path = Path(sys.executable).parent, passed.get("PATH") or os.defpath
    if str(folder) not in path.split(os.pathsep) and (folder / "cis").exists():
        passed["PATH"] = f"{path}{os.pathsep}{folder}"
    return passed


def attempt_marks(run_id: str, task_id: str, attempt: int) -> dict[str, str]:
    """Return the variables that tell an attempt's processes from all others."""
    return {"CIS_RUN_ID": run_id, "CIS_TASK_ID": task_id, "CIS_ATTEMPT": str(attempt)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptMaker:
    """Turns tasks into launches, for one worker. ``workdir`` is where tasks without a ``cwd`` run.

    ``scope_env`` is what this node's settings give to every task of the worker's scope.
    """

    skills: SkillBook
    logfiles: LogFiles
    base_env: Mapping[str, str]
    node_id: str
    worker_id: str
    workdir: Path
    secrets: SecretBook | None = None
    scope_env: Mapping[str, str] = field(default_factory=dict)

    def launch(self, plan: RunPlan, number: int, attempt: AttemptRecord) -> Launch:
        """Return how to start *attempt*.

        Raises:
            LaunchError: an output that it refers to or a secret that it asks for is missing, or its skill refuses.
        """
        run, task, values = plan.run, plan.task_spec(number), plan.values.of(number)
        command = self._command(plan, task, values)
        if isinstance(command, ChildDag | Wait):
            raise LaunchError(f"skill {task.skill!r} planned a DAG or a wait, but does not say waits = True")
        directory = self.directory(task, values)
        files = self.logfiles.paths(attempt.run_id, number, attempt.attempt)
        secrets = self._revealed(plan, task, values) if task.secrets else {}
        marks = attempt_marks(attempt.run_id, attempt.task_id, attempt.attempt)
        return Launch(
            argv=command.argv if command.script is None else (*command.argv, script_beside(files.outputs)),
            env={
                **self.base_env,
                **command.env,
                **self.scope_env,
                **values.shared_env,
                **self.env(task, values),
                **secrets,
                **marks,
                "CIS_DAG_ID": run.dag_id,
                **({} if run.trigger is None else {"CIS_TRIGGER": str(run.trigger.kind)}),
                **({} if plan.settled is None else told(plan.settled, plan.tasks)),
                "CIS_NODE_ID": self.node_id,
                "CIS_WORKER_ID": self.worker_id,
                "CIS_SCOPE": str(run.scope),
                "CIS_OUTPUT": files.outputs,
            },
            cwd=directory,
            stdin=command.stdin if task.stdin is None else self._input(task, values, directory),
            stdout=files.stdout,
            stderr=files.stderr,
            outputs=files.outputs,
            mask=needles(secrets.values()) if secrets else (),
            marks=marks,
            leave=task.leave,
            keep_log=task.leave,
            handle=attempt_handle(attempt.run_id, number, attempt.attempt),
            lasting=task.on_lost is OnLost.ADOPT,
            timeout_s=task.timeout_s,
            script=command.script,
        )

    def make_ready(self, launch: Launch) -> None:
        """Write the script of *launch*; make the worker's own directory again if it runs there and a task removed it.

        Raises:
            LaunchError: one of them cannot be made.
        """
        if launch.script is not None:
            _write_script(launch.argv[-1], launch.script)
        if launch.cwd is not self.workdir or os.path.isdir(self.workdir):  # noqa: PTH112 - at each start
            return
        try:
            self.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LaunchError(f"folder {self.workdir} cannot be made: {error.strerror}") from error

    def wait(self, plan: RunPlan, number: int) -> ChildDag | Wait:
        """Return the DAG that a task is, or what it waits for, its parameters filled in. Raises LaunchError."""
        task = plan.task_spec(number)
        planned = self._command(plan, task, plan.values.of(number))
        if not isinstance(planned, ChildDag | Wait):
            raise LaunchError(f"skill {task.skill!r} says waits = True, but planned a process")
        if isinstance(planned, Wait) and [planned.until_us, planned.for_s, planned.ask].count(None) != 2:
            raise LaunchError(f"skill {task.skill!r} planned a wait that is not exactly one of for_s, until_us and ask")
        if task.secrets and isinstance(planned, Wait):
            raise LaunchError("a task that waits is given no secrets")
        if task.secrets:
            raise LaunchError("a DAG as a task is given no secrets; its own tasks ask for those that they need")
        return planned

    def sweep(self, plan: RunPlan, *, keep: Container[tuple[str, int, int]]) -> None:
        """Remove what earlier attempts with secrets left in their ``CIS_OUTPUT``; *keep* are those that still run."""
        for number, (spec, task) in enumerate(zip(plan.specs, plan.tasks, strict=True)):
            for attempt in range(1, task.attempts + 1) if spec.secrets else ():
                if (task.run_id, number, attempt) not in keep:
                    forget_outputs(self.logfiles.paths(task.run_id, number, attempt).outputs)

    def directory(self, task: TaskSpec, values: Values) -> StrPath:
        """Return where the task runs: its ``cwd``, against the worker's own directory. Raises LaunchError."""
        if task.cwd is None:
            return self.workdir
        cwd = values.text(task.cwd)
        try:
            return cwd if cwd.startswith("/") else self.workdir / Path(cwd).expanduser()
        except RuntimeError as error:
            raise LaunchError(f"cwd {cwd} names a user whose home is not known; write the whole path") from error

    def _input(self, task: TaskSpec, values: Values, directory: StrPath) -> bytes | str:
        """Return the text that the task reads, or the path of the file; a relative one counts from where the task runs."""
        if isinstance(task.stdin, str):
            return values.text(task.stdin).encode()
        path = values.text(task.stdin[FILE] if task.stdin else "")
        try:
            return str(Path(directory, Path(path).expanduser()))
        except RuntimeError as error:
            raise LaunchError(f"stdin names the file {path}, of a user whose home is not known") from error

    def _command(self, plan: RunPlan, task: TaskSpec, values: Values) -> Command | ChildDag | Wait:
        try:
            if task.skill is None:
                return self.skills.get(COMMAND_SKILL).plan(
                    {"command": _argument(task, values), SHELL_PARAM: _shell(plan, task)}
                )
            skill = self.skills.get(task.skill)
            nested = getattr(skill, "nested_params", ())
            params = {name: value if name in nested else values.filled(value) for name, value in task.params.items()}
            if task.skill == COMMAND_SKILL:
                params = {SHELL_PARAM: _shell(plan, task), **params}
            _refuse(_smuggled(task.params, params))
            _refuse(skill.check(params))
            return skill.plan(params)
        except CisError as error:
            raise LaunchError(str(error)) from error
        except Exception as error:  # a stranger's skill may raise anything, and must not end the worker
            raise LaunchError(f"skill {task.skill or COMMAND_SKILL!r} failed: {error!r}") from error

    def _revealed(self, plan: RunPlan, task: TaskSpec, values: Values) -> Mapping[str, str]:
        if self.secrets is None:
            raise LaunchError(f"task {task.id!r} asks for secrets, and this node has none")
        names = {variable: values.text(name) for variable, name in task.secrets.items()}
        revealed = self.secrets.reveal(set(names.values()), scope=plan.run.scope)
        return {variable: revealed[name] for variable, name in names.items()}

    def env(self, task: TaskSpec, values: Values) -> Mapping[str, str]:
        """Return the task's own variables, filled in. Raises LaunchError."""
        return {name: values.text(value) for name, value in task.env.items()}


def _refuse(faults: Sequence[tuple[str, str]]) -> None:
    if faults:
        raise LaunchError("; ".join(f"params{'.' if name else ''}{name}: {message}" for name, message in faults))


def _smuggled(written: Json, filled: Json) -> Sequence[tuple[str, str]]:
    """Return a fault if an output brought a reference to a secret along: only the document may ask for one."""
    counts = {json.dumps(params).count(OPENING_OF_SECRET) for params in (written, filled)}
    return [("", "an output in them holds ${secrets.…}, which may stand in a document only")] if len(counts) > 1 else []


def _write_script(path: str, script: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o700), "wb") as file:
            file.write(script)
    except OSError as error:
        raise LaunchError(f"the file for its command cannot be written: {error.strerror}") from error


def _shell(plan: RunPlan, task: TaskSpec) -> str:
    return task.shell or (STRICT_SHELL if plan.run.errexit else PLAIN_SHELL)


def _argument(task: TaskSpec, values: Values) -> Json:
    return [values.text(word) for word in task.command] if isinstance(task.command, tuple) else task.command
