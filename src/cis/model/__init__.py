"""What a DAG is and what may become of it: pure, with no I/O, no clock and no randomness.

``document.parse_dag`` makes a ``dag.DagSpec`` of a document, ``inference`` finds its scope, ``states`` has the arrows
that runs, tasks and attempts move along, ``message`` what nodes say to each other.
"""
