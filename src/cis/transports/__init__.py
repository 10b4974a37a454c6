"""How nodes reach each other: the signed envelope, HTTP push, the Matrix room.

``envelope`` and ``keys`` are what is sent, ``courier`` and ``push`` send it by HTTP, ``matrix`` through a room;
``reception`` takes in what comes by either, ``reporter`` and ``asking`` bring state back.
"""
