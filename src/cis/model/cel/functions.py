"""The names of functions and macros, with how many arguments each takes."""

from __future__ import annotations

FUNCTIONS = {"size": 1, "int": 1, "double": 1, "string": 1, "bool": 1, "dyn": 1, "matches": 2}
"""``f(x)``."""
METHODS = {"size": 0, "startsWith": 1, "endsWith": 1, "contains": 1, "matches": 1}
"""``x.f(y)``, without the first."""
MACROS = ("all", "exists", "exists_one", "filter", "map")
LEFT_OUT = ("uint", "bytes", "type", "timestamp", "duration")
