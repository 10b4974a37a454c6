"""What all errors have in common, and those of whoever asks: usage, settings, documents, names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong, and where: a path such as ``tasks[2].depends_on[0]``."""

    place: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line}"
        at = f"{self.place} ({line})" if self.place and line else self.place or line
        return f"{at}: {self.message}" if at else self.message


class CisError(Exception):
    """Whatever CIS-DAG refuses or fails at; catch this one at the outermost edge."""

    code = "internal"
    http_status = 500
    exit_status = 1


class UsageError(CisError):
    """The command line or request cannot be understood: read the message and ask again."""

    code = "usage"
    http_status = 400
    exit_status = 2


class _FaultListError(CisError):
    """Faults of something written by a person, reported together."""

    exit_status = 2
    what = "input"

    def __init__(self, faults: Sequence[Fault], *, source: str | None = None) -> None:
        self.faults = tuple(faults)
        self.source = source
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        head = f"{source or self.what}: {count}"
        super().__init__("\n".join([head, *(f"  {fault}" for fault in self.faults)]))


class ConfigError(_FaultListError):
    """``cis.toml``, an environment variable or a flag is wrong: mend each place that is named."""

    code = "config.invalid"
    what = "configuration"


class DocumentError(_FaultListError):
    """A DAG document breaks its schema or its own promises: mend each place that is named."""

    code = "document.invalid"
    http_status = 422
    what = "DAG document"


class MalformedDocumentError(DocumentError):
    """The bytes are not a YAML, JSON or TOML mapping."""

    code = "document.malformed"
    http_status = 400


class DocumentTooLargeError(DocumentError):
    """The document is over its size limit: split it, or make a task of a script."""

    code = "document.too_large"
    http_status = 413

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        limit = f"{limit_bytes // 2**20} MiB"
        fault = Fault(place="", message=f"larger than the limit of {limit}; move data out of it into files")
        super().__init__([fault])


class NotFoundError(CisError):
    """Nothing of that name is here: the list commands show what is."""

    code = "not_found"
    http_status = 404
    exit_status = 3

    def __init__(self, kind: str, name: str, *, hint: str = "") -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"no {kind} {name!r}" + (f"; {hint}" if hint else ""))
