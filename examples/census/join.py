"""Join the parts of the census into one table, $OUT/census.csv, the largest package first."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

COLUMNS = ("package", "files", "lines", "functions", "classes", "imports")


def main() -> None:
    """Write the table; its path, the number of packages and the sum of their lines are the task's outputs."""
    out = Path(os.environ["OUT"])
    rows = [json.loads(part.read_text(encoding="utf-8")) for part in (out / "parts").glob("*.json")]
    rows = sorted((row for row in rows if row["files"]), key=lambda row: (-row["lines"], row["package"]))
    table = out / "census.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with Path(os.environ["CIS_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.write(f"csv={table}\npackages={len(rows)}\nlines={sum(row['lines'] for row in rows)}\n")
    print(f"{len(rows)} packages in {table}")


if __name__ == "__main__":
    main()
