"""The side of the node that executes a run for another one.

``accept`` takes runs on and acts on controls; ``claiming`` claims what the room offers, and ``lease`` holds it for as
long as it is granted; ``report`` makes what is sent to the origin, ``reporter`` sends it or answers who asks.
"""
