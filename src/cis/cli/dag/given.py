"""What ``-p`` and ``--params-file`` give to the parameters of a DAG."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cis.errors import DocumentError, Fault, UsageError

if TYPE_CHECKING:
    from cis.model.params import Given


def given_params(options: argparse.Namespace) -> Given:
    """Return the values that somebody typed, over those of a file.

    Raises:
        UsageError: something is no ``NAME=VALUE`` or ``NAME:=JSON``, or the file cannot be read.
        DocumentError: what is in the file is no mapping.
    """
    if not options.param and options.params_file is None:
        return {}
    from cis.model.params import Typed, read_json  # noqa: PLC0415 - most runs have none

    given = _of_file(options.params_file) if options.params_file is not None else {}
    for text in options.param or ():
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageError(f"-p {text!r:.80}: write NAME=VALUE, or NAME:=JSON")
        if not name.endswith(":"):
            given[name] = Typed(value)
            continue
        try:
            given[name[:-1]] = read_json(value)
        except ValueError as error:
            raise UsageError(f"-p {text!r:.80}: what follows := is not JSON: {error}") from error
    return given


def _of_file(name: str) -> dict[str, object]:
    from cis.cli.dag.run import read_input  # noqa: PLC0415 - they use each other
    from cis.model.formats import SUFFIXES, load_document  # noqa: PLC0415 - as above
    from cis.model.task_kinds import plain_json  # noqa: PLC0415 - as above

    notation = None if name == "-" else SUFFIXES.get(Path(name).suffix.lower())
    tree = load_document(read_input(name), format=notation, source=name)
    if tree.faults:
        raise DocumentError([Fault(place="", message=message) for _, message in tree.faults], source=name)
    try:
        return {str(key): plain_json(value) for key, value in tree.root.items()}
    except ValueError as error:
        raise DocumentError([Fault(place="", message=str(error))], source=name) from error
