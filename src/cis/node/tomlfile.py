"""Setting one value in ``cis.toml`` without touching what its owner wrote around it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from cis.errors import ConfigError, Fault
from cis.node.files import replace_file


def set_text(path: Path, *, section: str, key: str, value: str) -> None:
    """Set ``key`` of ``[section]`` to a string, in place of its line, or as the first of its section.

    Raises:
        ConfigError: the file is no TOML, or writes the key in a way that is not to be seen line by line.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text.splitlines()
    line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    start = next((number for number, one in enumerate(lines) if _heads(one, section)), None)
    if start is None:
        lines += ["", f"[{section}]", line] if lines else [f"[{section}]", line]
    else:
        end = next((n for n in range(start + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
        place = next((n for n in range(start + 1, end) if re.match(rf"\s*{re.escape(key)}\s*=", lines[n])), None)
        if place is None:
            lines.insert(start + 1, line)
        else:
            lines[place] = line
    fresh = "\n".join(lines) + "\n"
    try:
        written = tomllib.loads(fresh).get(section, {}).get(key)
    except (ValueError, AttributeError):
        written = None
    if written != value:
        message = f"cannot be changed by a program; write {line} into [{section}] by hand"
        raise ConfigError([Fault(place=f"{path}: {section}.{key}", message=message)])
    replace_file(path, fresh.encode())


def _heads(line: str, section: str) -> bool:
    return re.match(rf"\s*\[\s*{re.escape(section)}\s*\]", line) is not None
