"""The HTTP API of a node: ``app`` puts it together, ``gate`` stands in front of every route.

The routes are in ``execute``, ``runs``, ``streams``, ``inventory`` and ``probes``; ``served`` is the node as they
use it.
"""
