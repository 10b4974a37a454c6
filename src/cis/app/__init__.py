"""What may be done with a node: each use case acts, and says whom to wake where somebody has something to do.

What somebody is to answer for is written into the audit log with it; saving a DAG and pruning are not.
``submit``, ``control``, ``trust``, ``tokens`` and ``prune``; ``actor`` says who acts.
"""
