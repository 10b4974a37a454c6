"""When a failed task is tried again."""

from __future__ import annotations

from cis.model.dag import Backoff, TaskSpec

MAX_DELAY_S = 3600.0


def retry_delay_s(task: TaskSpec, *, failures: int, jitter: float) -> float:
    """Return the seconds to wait after the *failures*-th failure (from 1); *jitter* is in [0, 1).

    Constant: exactly ``retry_delay``. Exponential: d = min(retry_delay * 2^(failures - 1), cap), where the cap is 1 h
    or, if that is more, ``retry_delay`` itself; the upper half is left to chance, d/2 + jitter * d/2, so that
    what failed together is not tried again together ("equal jitter", M. Brooker, Exponential Backoff and
    Jitter, 2015).
    """
    if task.retry_backoff is Backoff.CONSTANT:
        return task.retry_delay_s
    doublings = min(failures - 1, 64)
    delay_s = min(task.retry_delay_s * 2.0**doublings, max(MAX_DELAY_S, task.retry_delay_s))
    return delay_s / 2 + jitter * delay_s / 2
