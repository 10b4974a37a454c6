"""The composition root: it wires a node (``node``), a worker (``worker_main``) and a run without a node (``workers``).

Only this layer and those above it see the ``settings``.
"""
