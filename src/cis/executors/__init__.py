"""Where the process of a task runs: ``local.LocalExecutor`` starts, measures, ends and reaps processes of this machine.

``exits`` notices ends, ``streams`` reads what tasks write, ``orphans`` ends what a dead worker left, ``platform`` and
``linux`` hold what differs between systems.
"""
