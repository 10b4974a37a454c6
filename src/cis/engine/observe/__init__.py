"""State as it looks from outside, the same for the command line and HTTP.

``views`` has the JSON objects, ``waiting`` the reasons why something does not move, ``logs`` and ``logreader`` what
tasks wrote.
"""
