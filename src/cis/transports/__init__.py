"""How messages travel between nodes: the signed envelope, HTTP push, the Matrix room.

What a message means is decided in the federation. ``envelope`` and ``keys`` sign and check, ``receiver`` opens what
comes by either way, ``push`` sends and answers by HTTP, ``matrix`` through a room; ``address`` is where a server is,
and who vouches for it.
"""
