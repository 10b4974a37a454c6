"""The command line, ``cis …``: parse, one call, render.

``main.main`` is the entry point; each group of commands has a module, which is imported only when it is asked for.
"""
