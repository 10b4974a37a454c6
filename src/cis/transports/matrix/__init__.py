"""The Matrix room: a thin client, the reader that loses nothing, and what a safe room looks like."""
