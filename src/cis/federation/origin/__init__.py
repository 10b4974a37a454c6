"""The side of the node that accepted a run, which another node executes.

``arbiter`` chooses who executes what is on offer in the room; ``status`` takes in what the executing node says of a run;
``mirror`` merges its reports into the rows and logs here.
"""
