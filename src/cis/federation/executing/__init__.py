"""The side of the node that executes a run for another one.

``accept`` takes runs on and acts on controls; ``lease`` claims what the room offers, and holds it for as long as that is
granted; ``report`` makes what is told to the origin.
"""
