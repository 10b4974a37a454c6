"""The composition root: it wires a node (``node``), a worker (``worker_main``) and a run without a node (``workers``).

``handle`` is what HTTP and the transports use of a running node. Only this layer and those above it see the
``settings``.
"""
