"""The Matrix room: ``room.Room`` reads it without losing an event, acts on what it read, says what it has to say.

``client`` is a thin client, ``sync`` the reader that loses nothing, ``journal`` acts, ``sender`` speaks, ``policy`` is
what a safe room looks like, and ``chat`` answers people.
"""
