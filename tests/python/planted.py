"""Looks for texts in all that a lake's folder holds: bytes of every file, and every value of Parquet files.

    planted.py TEXT,TEXT… PATH…

Prints where it found one, and exits with 1.
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq


def files(paths: list[str]):
    for path in map(Path, paths):
        yield from sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def main() -> bool:
    texts = sys.argv[1].split(",")
    seen, found = 0, False
    for path in files(sys.argv[2:]):
        seen += 1
        held = [("bytes", path.read_bytes().decode("latin-1"))]
        if path.suffix == ".parquet":
            rows = pq.ParquetFile(path)
            held.append(("statistics", str([rows.metadata.row_group(i).to_dict() for i in range(rows.num_row_groups)])))
            held += [(name, "\n".join(map(str, column.to_pylist()))) for name, column in zip(rows.schema_arrow.names, rows.read().columns)]
        for where, content in held:
            for text in texts:
                if text in content:
                    found = True
                    print(f"{text!r} is in {path}, {where}")
    assert seen, "no file to look into"
    return found


if __name__ == "__main__":
    sys.exit(main())
