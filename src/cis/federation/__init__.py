"""What crosses between nodes: runs and control one way, state back; in the order of its two sides.

``origin`` is the side of the node that accepted a run, ``executing`` that of the node which runs it for another; they
know nothing of each other but the codec: ``records`` and ``messages`` write and read all that crosses. ``inbox`` gives
each message to its side; ``restored`` is a node after a backup, which concerns both; ``service`` is what the services of
both use of their node and of the way to peers.
"""
