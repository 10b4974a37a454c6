"""What may be done with a node: each use case acts, writes the audit log, and returns whom to wake.

``submit``, ``control``, ``trust``, ``tokens`` and ``prune``; ``actor`` says who acts.
"""
