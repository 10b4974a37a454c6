"""The side of the node that accepted a run, which another node executes.

``outbox`` is what waits to be sent, and ``courier`` sends it to peers; ``arbiter`` chooses who executes what is on
offer in the room; ``status`` receives what the executing node says of a run, and asks when it says nothing; ``mirror``
merges its reports into the rows and logs here.
"""
