"""The node as a service of the machine: what systemd or launchd is told of it, and asked about it.

The service starts the node by the interpreter that runs this, with the home, and the ``PATH``, of the shell that
installed it. An address that is not there yet (a network that comes up later) is waited for: the node ends, and is
started again after some seconds, as often as it takes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cis.errors import ConflictError, NodeUnreachableError

RESTART_S = 5
ASK_WITHIN_S = 60.0
_UNSAFE = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "%": "%%"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is to run as a service: ``name`` is that of its unit, ``system`` says that it is the machine's, not a user's."""

    name: str
    node_id: str
    home: Path
    path: str
    stop_s: float
    system: bool
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def argv(self) -> Sequence[str]:
        """The command of the node."""
        return (sys.executable, "-P", "-m", "cis", "node", "start")

    @property
    def environment(self) -> dict[str, str]:
        """What the node is started with."""
        return {"CIS_HOME": str(self.home), "PATH": self.path, **self.extra}


def path_with_cis(path: str) -> str:
    """Return a ``PATH`` on which the command ``cis`` is found: behind all else, if it was not before."""
    folder = str(Path(sys.executable).parent)
    folders = [one for one in path.split(os.pathsep) if one]
    return os.pathsep.join(folders if folder in folders else [*folders, folder])


def systemd_unit(service: Service) -> str:
    """Return the unit file."""
    wanted = "multi-user.target" if service.system else "default.target"
    online = ["After=network-online.target", "Wants=network-online.target"] if service.system else []
    variables = [f"Environment={_quoted(f'{name}={value}')}" for name, value in sorted(service.environment.items())]
    lines = [
        "[Unit]",
        f"Description=CIS-DAG node {service.node_id}",
        *online,
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"ExecStart={' '.join(_quoted(word).replace('$', '$$') for word in service.argv)}",
        *variables,
        "Restart=on-failure",
        f"RestartSec={RESTART_S}",
        "# The node tells its workers to stop, and they their tasks; what is left in the end is killed.",
        "KillMode=mixed",
        f"TimeoutStopSec={round(service.stop_s)}",
        "",
        "[Install]",
        f"WantedBy={wanted}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a word as unit files quote it (systemd.syntax(7), systemd.unit(5): ``%`` begins a specifier)."""
    return '"' + "".join(_UNSAFE.get(letter, letter) for letter in text) + '"'


def launchd_plist(service: Service) -> bytes:
    """Return the property list."""
    import plistlib  # noqa: PLC0415 - on a Mac alone

    log = str(service.home / "logs" / "node.log")
    return plistlib.dumps(
        {
            "Label": service.name,
            "ProgramArguments": list(service.argv),
            "EnvironmentVariables": service.environment,
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": RESTART_S,
            "ExitTimeOut": round(service.stop_s),
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
    )


class Systemd:
    """Services of systemd: of the machine, or of this user."""

    name = "systemd"

    def __init__(self, service: Service, environ: Mapping[str, str]) -> None:
        config = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        folder = Path("/etc/systemd/system") if service.system else Path(config) / "systemd" / "user"
        self.file = folder / f"{service.name}.service"
        self._service = service
        self._control = ("systemctl",) if service.system else ("systemctl", "--user")

    def content(self) -> bytes:
        """Return what is to stand in the file."""
        return systemd_unit(self._service).encode()

    def start(self) -> None:
        """Have it run, now and whenever the machine, or the user's session, begins. Raises NodeUnreachableError."""
        _demand(*self._control, "daemon-reload")
        _demand(*self._control, "enable", "--now", self.file.name)

    def stop(self) -> None:
        """Have it stopped, now and for good; harmless where systemd does not run."""
        _ask(*self._control, "disable", "--now", self.file.name)

    def forget(self) -> None:
        """Have the manager notice that the file is gone."""
        _ask(*self._control, "daemon-reload")

    def state(self) -> tuple[bool, bool]:
        """Return whether it is started by itself, and whether it runs now."""
        enabled = _ask(*self._control, "is-enabled", self.file.name)[1].strip() == "enabled"
        return enabled, _ask(*self._control, "is-active", self.file.name)[1].strip() == "active"

    @property
    def by_hand(self) -> str:
        """What starts it, for whoever does that by hand."""
        return f"{' '.join(self._control)} enable --now {self.file.name}"


class Launchd:
    """Services of launchd: daemons of the machine, or agents of this user."""

    name = "launchd"

    def __init__(self, service: Service, _environ: Mapping[str, str]) -> None:
        folder = Path("/Library/LaunchDaemons") if service.system else Path.home() / "Library" / "LaunchAgents"
        self.file = folder / f"{service.name}.plist"
        self._service = service
        self._domain = "system" if service.system else f"gui/{os.getuid()}"

    def content(self) -> bytes:
        """Return what is to stand in the file."""
        return launchd_plist(self._service)

    def start(self) -> None:
        """Have it run, now and whenever the machine, or the user's session, begins. Raises NodeUnreachableError."""
        _ask("launchctl", "bootout", f"{self._domain}/{self._service.name}")
        _demand("launchctl", "bootstrap", self._domain, str(self.file))

    def stop(self) -> None:
        """Have it stopped, now and for good."""
        _ask("launchctl", "bootout", f"{self._domain}/{self._service.name}")

    def forget(self) -> None:
        """Nothing more is to be done."""

    def state(self) -> tuple[bool, bool]:
        """Return whether it is started by itself, and whether it runs now."""
        status, said = _ask("launchctl", "print", f"{self._domain}/{self._service.name}")
        return status == 0, "state = running" in said

    @property
    def by_hand(self) -> str:
        """What starts it, for whoever does that by hand."""
        return f"launchctl bootstrap {self._domain} {self.file}"


Manager = Systemd | Launchd


def manager_of(service: Service, environ: Mapping[str, str]) -> Manager:
    """Return what manages services on this machine."""
    return Launchd(service, environ) if sys.platform == "darwin" else Systemd(service, environ)


def write(manager: Manager) -> bool:
    """Put the service's file into its place; return whether it has changed. Raises ConflictError: it cannot be written."""
    content = manager.content()
    try:
        if manager.file.exists() and manager.file.read_bytes() == content:
            return False
        manager.file.parent.mkdir(parents=True, exist_ok=True)
        manager.file.write_bytes(content)
    except OSError as error:
        raise ConflictError(f"{manager.file} cannot be written: {error.strerror}") from error
    return True


def _ask(*command: str) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout or done.stderr


def _demand(*command: str) -> None:
    status, said = _ask(*command)
    if status != 0:
        raise NodeUnreachableError(f"'{' '.join(command)}' failed: {' '.join(said.split())[:300] or status}")
