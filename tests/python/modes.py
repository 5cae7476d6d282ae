"""What tables keep that are no mirror of their source's, through both outside readers.

`soft-delete`: rows of the lake that are marked as deleted are those of the source's table of graves that are not in
the table itself, with the same values, each with a time between the two that are given. (Rows that live are compared by
compare.py.)
"""

import argparse
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

import lake
import source
from compare import differences, exact


def without(rows: pa.Table, others: pa.Table, key: list[str]) -> pa.Table:
    return rows.join(others.select(key), keys=key, join_type="left anti").select(rows.column_names)


def soft_delete(arguments) -> list[str]:
    catalog = source.catalog(arguments.source)
    relations = catalog.tables()
    table, graves = relations[arguments.table], relations[arguments.graves]
    columns, key = catalog.replicated(table), catalog.key(table)
    expected = without(catalog.rows(graves, columns), catalog.rows(table, columns), key)
    root = lake.tables(arguments.lake)[arguments.table]
    problems = lake.audit(root)
    since, until = (pa.scalar(datetime.fromisoformat(t), pa.timestamp("us", "UTC")) for t in (arguments.since, arguments.until))
    for reader, rows in (("oracle", lake.Table(root).read()), ("deltalake", lake.read_deltalake(root))):
        deleted = lake.those(rows, rows[lake.DELETED])
        at = deleted[lake.DELETED_AT].cast(pa.timestamp("us", "UTC"))
        found = exact(deleted.drop_columns([lake.DELETED, lake.DELETED_AT]), columns)
        problems += [f"{reader}: {p}" for p in differences(expected, found, key)]
        if rows[lake.DELETED].null_count or at.null_count:
            problems.append(f"{reader}: marks that are NULL")
        if len(rows) - rows[lake.DELETED_AT].null_count != len(deleted):
            problems.append(f"{reader}: a time on rows that live")
        early, late = (pc.sum(test).as_py() or 0 for test in (pc.less(at, since), pc.greater(at, until)))
        if early or late:
            problems.append(f"{reader}: {early} rows deleted before {since}, {late} after {until}")
    print(f"{arguments.table}: {len(expected)} deleted rows")
    if len(expected) < arguments.least:
        problems.append(f"at least {arguments.least} were expected")
    return problems


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("soft-delete")
    command.add_argument("--source", required=True, help="connection string of the database")
    command.add_argument("--lake", required=True, help="the lake's directory")
    command.add_argument("--since", required=True)
    command.add_argument("--until", required=True)
    command.add_argument("--least", type=int, default=1, help="so many deleted rows there are at least")
    command.add_argument("table")
    command.add_argument("graves")
    problems = soft_delete(parser.parse_args())
    print("".join(f"  {problem}\n" for problem in problems), end="")
    return not problems


if __name__ == "__main__":
    lake.leave(main())
