"""A node's own log: a line for each event, and not one for each that a flood brings."""

from __future__ import annotations

import io
import logging

import pytest

from cis.cli.logs import MAX_OF_ONE_MESSAGE, WITHIN_US, FactFormatter, FloodFilter, log_beside_run


def lines_of(records: list[logging.LogRecord]) -> list[str]:
    """Return what is written of some records."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FactFormatter("%(message)s"))
    handler.addFilter(FloodFilter())
    for record in records:
        handler.handle(record)
    return stream.getvalue().splitlines()


def record(message: str, *, at_s: float, **facts: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "cis.x", "msg": message, "created": at_s, **facts})


def test_of_one_message_the_first_of_a_minute_are_written_whatever_its_facts_are_and_others_are_not_hidden() -> None:
    flood = [record("refused", at_s=0.0, sender=f"n{number}") for number in range(1000)]

    lines = lines_of([*flood, record("other", at_s=0.0), record("refused", at_s=WITHIN_US / 1e6, sender="late")])

    assert len(lines) == MAX_OF_ONE_MESSAGE + 2
    assert lines[-2] == "other"
    assert lines[-1] == f"refused  sender=late  left_out_before={1000 - MAX_OF_ONE_MESSAGE}"


@pytest.mark.parametrize(("quiet", "said"), [(False, "cis: a worker died  pid=7\ncis: lost\n"), (True, "cis: lost\n")])
def test_beside_a_run_that_is_run_here_warnings_have_their_facts_and_a_quiet_one_says_errors_alone(
    *, quiet: bool, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    log_beside_run(quiet=quiet)

    logging.getLogger("cis.worker.rescuer").warning("a worker died", extra={"pid": 7})
    logging.getLogger("cis.worker.rescuer").error("lost")

    assert capsys.readouterr().err == said
