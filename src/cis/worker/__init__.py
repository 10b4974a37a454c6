"""Worker processes: ``process.WorkerProcess`` is the life of one, ``supervisor.Supervisor`` its parent's side.

``lock`` and ``bell`` are how they know and wake each other, ``rescuer`` finds those that are dead or hang, and
``task_places`` bounds the tasks of all of them together.
"""
