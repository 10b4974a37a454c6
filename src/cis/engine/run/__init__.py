"""A worker's loop: what runs, what starts next, and what each end leads to.

``loop.WorkerLoop`` turns, ``decide`` is what one turn writes, and ``plan.RunPlan`` decides for one run. ``claiming``
and ``adoption`` say which runs a worker holds; ``attempts``, ``spawning`` and ``live`` take one attempt from its launch
to its verdict.
"""
