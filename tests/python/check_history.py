"""Checks every version of the lake against the workload's journal: a version whose state is `streaming` must hold
exactly the transactions that its watermark covers.

Where the source tells no transaction's own name, a watermark between its `before` and `after` may or may not cover
it: either content is right then. The oracle reads every version, deltalake a sample of them.
"""

import argparse
import json
from pathlib import Path

import lake
import positions
import source
from canonical import from_lake, leaf_text
from workload import digest

SHOWN = 3


class History:
    """A table's content at any position; positions are asked for in ascending order."""

    def __init__(self, table: str, names: list[str], transactions: list[dict]):
        self.names, self.table = names, table
        self.rows, self.transactions, self.next = {}, transactions, 0

    def apply(self, rows: dict, transaction: dict) -> dict:
        for key, row in transaction["changes"][self.table]:
            rows.pop(tuple(key), None)
            if row is not None:
                rows[tuple(key)] = tuple(row[n] for n in self.names)
        return rows

    def at(self, watermark) -> list[set]:
        """The contents that are right at `watermark`."""
        while self.next < len(self.transactions) and covers(watermark, self.transactions[self.next]):
            self.apply(self.rows, self.transactions[self.next])
            self.next += 1
        contents = [set(self.rows.values())]
        if self.next < len(self.transactions) and covers(watermark, self.transactions[self.next]) is None:
            contents.append(set(self.apply(dict(self.rows), self.transactions[self.next]).values()))
        return contents


def covers(watermark, transaction: dict) -> bool | None:
    """Whether a transaction of the journal lies at or before a watermark; None if that can't be told."""
    if "gtid" in transaction:
        return watermark.has_gtid(transaction["gtid"])
    if watermark.covers(positions.parse(transaction["after"])):
        return True
    return False if positions.parse(transaction["before"]).covers(watermark) else None


def streaming_versions(table: lake.Table) -> list[tuple]:
    """(version, watermark) of every version that equals the source at its watermark."""
    snapshot, found = lake.Snapshot(), []
    for version in table.versions():
        snapshot.apply(table.commit(version))
        if snapshot.state().get("state") == "streaming":
            found.append((version, positions.parse(snapshot.state()["watermark"])))
    return found


def exact_rows(rows, columns) -> list[tuple]:
    texts = []
    for column in columns:
        values = from_lake(rows[column.name], column.type).to_pylist()
        texts.append([None if v is None else digest(leaf_text(v)) for v in values])
    return list(zip(*texts))


def problem(rows: list[tuple], contents: list[set]) -> str | None:
    found = set(rows)
    if len(rows) > len(found):
        return f"{len(rows) - len(found)} rows are doubled"
    if found in contents:
        return None
    missing, extra = contents[0] - found, found - contents[0]
    return (
        f"{len(missing)} rows missing, {len(extra)} rows too many of {len(found)} (of {len(contents)} right contents);"
        f" missing {sorted(missing, key=str)[:SHOWN]}, too many {sorted(extra, key=str)[:SHOWN]}"
    )


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="connection string of the workload's database")
    parser.add_argument("--lake", required=True, help="the lake's directory")
    parser.add_argument("--journal", required=True, type=Path)
    parser.add_argument("--executed", help="GTIDs of what the source has; it has lost the rest of the journal")
    parser.add_argument("--sample", type=int, default=30, help="versions of each table that deltalake reads")
    parser.add_argument("--versions-min", type=int, default=10, help="streaming versions each table must have")
    arguments = parser.parse_args()
    right = True
    directories = lake.tables(arguments.lake)
    catalog = source.catalog(arguments.source)
    for file in sorted(arguments.journal.glob("*.jsonl")):
        with open(file, encoding="utf-8") as lines:
            transactions = [json.loads(line) for line in lines]
        if arguments.executed:
            executed = positions.of_gtids(arguments.executed)
            transactions = [t for t in transactions if executed.has_gtid(t["gtid"])]
        for name in transactions[0]["changes"]:
            columns = catalog.columns(catalog.relation(name))
            root = directories[f"{catalog.schema}.{name}"]
            table, problems = lake.Table(root), []
            versions = streaming_versions(table)
            history = History(name, [c.name for c in columns], transactions)
            for i, (version, watermark) in enumerate(versions):
                if arguments.executed and watermark.server != versions[0][1].server:
                    break
                contents = history.at(watermark)
                readers = {"oracle": table.read}
                if (len(versions) - 1 - i) % -(-len(versions) // arguments.sample) == 0:
                    readers["deltalake"] = lambda v: lake.read_deltalake(root, v)
                for reader, read in readers.items():
                    if found := problem(exact_rows(read(version), columns), contents):
                        problems.append(f"{reader}, version {version} at {watermark}: {found}")
            if len(versions) < arguments.versions_min:
                problems.append(f"only {len(versions)} versions are streaming")
            print(f"{name}: {len(transactions)} transactions, {len(versions)} streaming versions,", len(problems), "wrong")
            print("".join(f"  {p:.800}\n" for p in problems[:SHOWN]), end="", flush=True)
            right &= not problems
    return right


if __name__ == "__main__":
    lake.leave(main())
