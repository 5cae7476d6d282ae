"""How many files readers open for a condition on partition columns, as JSON: reader → [files opened, files of the table].

deltalake tells by its partition filters, DuckDB by its plan. Needs the environment of requirements-readers.txt.
With a bucket column, its base and their number, ClickHouse's hash is compared with the column, too.
"""

import argparse
import json
import os
import re
from pathlib import Path

import chdb
from deltalake import DeltaTable

import lake
import readers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table")
    parser.add_argument("column")
    parser.add_argument("value")
    parser.add_argument("--bucket", nargs=3, metavar=("COLUMN", "BASE", "COUNT"))
    arguments = parser.parse_args()
    root = Path(arguments.table).absolute()
    table = DeltaTable(str(root))
    found = {"deltalake": [len(table.file_uris([(arguments.column, "=", arguments.value)])), len(table.file_uris())]}
    duckdb = readers.DuckDb()
    duckdb.open(root)
    condition = f"\"{arguments.column}\" = '{arguments.value}'"
    plan = duckdb.select(f"EXPLAIN ANALYZE SELECT count(*) FROM {{t}} WHERE {condition}").to_pylist()
    scanned = re.search(r"Scanning Files: (\d+)/(\d+)", " ".join(str(row) for row in plan))
    found["duckdb"] = [int(scanned[1]), int(scanned[2])] if scanned else plan
    if arguments.bucket:
        column, base, count = arguments.bucket
        os.chdir(root.parent)
        hashed = f"bitAnd(murmurHash3_32(toInt64({base})), 2147483647) % {count}"
        sql = f"SELECT count({base}), countIf({column} = {hashed}) FROM deltaLakeLocal('{root}')"
        found["chdb"] = [int(n) for n in str(chdb.query(sql, "TSV")).split()]
    print(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
    lake.leave(True)
