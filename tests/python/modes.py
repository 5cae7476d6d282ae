"""What tables keep that are no mirror of their source's, through both outside readers.

`soft-delete`: rows of the lake that are marked as deleted are those of the source's table of graves that are not in
the table itself, with the same values, each with a time between the two that are given. (Rows that live are compared by
compare.py.)

`history`: of each key, the lake's rows are the changes that the source's triggers have told in another table, in the
same order and with the same values, besides copies of rows as they were at that moment.
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


def by_key(rows: pa.Table, key: list[str], columns: list[str]) -> dict[tuple, list[tuple]]:
    """Of each key, its rows in their order."""
    found = {}
    for row in rows.to_pylist():
        found.setdefault(tuple(row[c] for c in key), []).append(tuple(row[c] for c in columns))
    return found


def is_told(found: tuple, wanted: tuple, copied: bool) -> bool:
    """Of a row that is deleted before it is copied, the lake has the key alone, which comes first."""
    op, key, *others = found
    return found == wanted or copied and ("d", key) == wanted[:2] == (op, key) and not any(others)


def shown(changes: list[tuple]) -> str:
    return str([tuple(v[:9] + "…" if isinstance(v, str) and len(v) > 20 else v for v in change) for change in changes])


def history(arguments) -> list[str]:
    catalog = source.catalog(arguments.source)
    relations = catalog.tables()
    table, told = relations[arguments.table], relations[arguments.told]
    columns, key = [c.name for c in catalog.replicated(table)], catalog.key(table)
    rows = catalog.rows(told, catalog.replicated(told)).sort_by("n")
    expected = by_key(rows, key, ["op", *columns])
    root = lake.tables(arguments.lake)[arguments.table]
    problems = lake.audit(root)
    since, until = (datetime.fromisoformat(t) for t in (arguments.since, arguments.until))
    copies = 0
    for reader, rows in (("oracle", lake.Table(root).read()), ("deltalake", lake.read_deltalake(root))):
        rows = lake.those(rows, pc.is_valid(rows[lake.SEQUENCE])).sort_by(lake.SEQUENCE)
        if len(pc.unique(rows[lake.SEQUENCE])) != len(rows):
            problems.append(f"{reader}: numbers that are there twice")
        told_columns = [lake.OP, *columns, lake.POSITION, lake.COMMITTED_AT]
        found = by_key(rows, key, told_columns)
        for own in sorted(found.keys() | expected.keys()):
            changes, before = [], None
            for op, *values, position, at in found.get(own, []):
                if op == "r":
                    copies += 1
                    if (position, at) != (None, None) or before not in (None, values):
                        problems.append(f"{reader}: {own}: a copy {values} after {before}")
                else:
                    changes.append((op, *values))
                    if position is None or not since <= at <= until:
                        problems.append(f"{reader}: {own}: {op} at {position}, {at}")
                before = values if op != "d" else None
            wanted = expected.get(own, [])
            if len(changes) != len(wanted) or not all(is_told(*pair, arguments.copied) for pair in zip(changes, wanted)):
                problems.append(f"{reader}: {own}: {shown(changes)} instead of {shown(wanted)}")
    print(f"{arguments.table}: {sum(map(len, expected.values()))} changes, {copies} copies")
    if len(rows) < arguments.least:
        problems.append(f"at least {arguments.least} were expected")
    return problems[:20]


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, other, check in (("soft-delete", "graves", soft_delete), ("history", "told", history)):
        command = commands.add_parser(name)
        command.add_argument("--source", required=True, help="connection string of the database")
        command.add_argument("--lake", required=True, help="the lake's directory")
        command.add_argument("--since", required=True)
        command.add_argument("--until", required=True)
        command.add_argument("--least", type=int, default=1, help="so many rows of the kind there are at least")
        command.add_argument("--copied", action="store_true", help="rows were changed while the table was copied")
        command.add_argument("table")
        command.add_argument(other)
        command.set_defaults(check=check)
    arguments = parser.parse_args()
    problems = arguments.check(arguments)
    print("".join(f"  {problem}\n" for problem in problems), end="")
    return not problems


if __name__ == "__main__":
    lake.leave(main())
