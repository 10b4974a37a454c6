"""The launches of a worker's attempts, of which one may be made before it is wanted.

While a single task runs there is nothing else to do, and what comes after it is often known: the launch of a task that waits
for that one alone is made then, and not between its end and the next start.
"""

from __future__ import annotations

from cis.engine.attempts import AttemptMaker
from cis.engine.plan import RunPlan
from cis.engine.ports import Launch
from cis.errors import LaunchError
from cis.store.records import AttemptRecord

_Key = tuple[str, int, int]


class Launches:
    """Makes each launch when it is asked for, unless it is the one that was foreseen."""

    def __init__(self, maker: AttemptMaker) -> None:
        self._maker = maker
        self._foreseen: tuple[_Key, Launch] | None = None

    def make(self, plan: RunPlan, attempt: AttemptRecord) -> Launch:
        """Return how to start *attempt*. Raises LaunchError."""
        if self._foreseen is not None:
            key, launch = self._foreseen
            if key == (attempt.run_id, attempt.task_no, attempt.attempt):
                return launch
        return self._maker.launch(plan, attempt.task_no, attempt)

    def foresee(self, plan: RunPlan, running: AttemptRecord) -> Launch | None:
        """Make the launch of the task that the end of *running* would make ready, if there is one, and return it.

        Only of a plain command without secrets, which is the same whenever it is made; and not of one that refers to outputs
        that are still to come.
        """
        self._foreseen = None
        number = plan.follower(running.task_no)
        if number is None:
            return None
        task = plan.task_spec(number)
        if task.skill is not None or task.secrets:
            return None
        attempt = plan.tasks[number].attempts + 1
        later = running._replace(task_no=number, task_id=task.id, attempt=attempt)
        try:
            launch = self._maker.launch(plan, number, later)
        except LaunchError:
            return None
        self._foreseen = (later.run_id, number, attempt), launch
        return launch
