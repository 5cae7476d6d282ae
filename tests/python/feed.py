"""The change data feed of tables against the tables themselves.

The feed of all versions, as the protocol has it read (`lake.Table.changes`), is folded onto the rows that were there when
it was turned on. What goes must have been there as it was, and each version's result must be the table of that version:
as rows that come and go, and as a consumer sees it that merges by key. Then `deltalake` reads the same feed: what it gives
must be the same, or it refuses.

Prints one JSON object per table: versions that were folded, changes by kind, versions with change data files, what
`deltalake` says.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

import lake

GONE, COME = {"delete", "update_preimage"}, {"insert", "update_postimage"}


def keyed(rows: pa.Table, key: list[str]) -> list[tuple]:
    """Key and whole row, in a form that has an order."""
    names = sorted(rows.column_names)
    columns = {name: [repr(value) for value in rows[name].to_pylist()] for name in names}
    keys = zip(*(columns[name] for name in key))
    return list(zip(keys, zip(*(columns[name] for name in names))))


class Fold:
    """A table that is made of its feed alone, from where that begins."""

    def __init__(self, rows: list[tuple]):
        self.rows, self.by_key = Counter(rows), dict(rows)

    def apply(self, version: int, changes: list[tuple[str, list[tuple]]]) -> None:
        gone, come = ([c for kind, rows in changes if kind in kinds for c in rows] for kinds in (GONE, COME))
        for row in gone:
            assert self.rows[row] > 0, f"version {version}: {row} goes, but was not there so"
            self.rows[row] -= 1
        self.rows += Counter()
        self.rows.update(come)
        updated = {key for kind, rows in changes if kind == "update_preimage" for key, _ in rows}
        arrived = {key for kind, rows in changes if kind == "update_postimage" for key, _ in rows}
        assert updated == arrived, f"version {version}: updates of {updated ^ arrived} have one side alone"
        deleted = {key for kind, rows in changes if kind == "delete" for key, _ in rows}
        inserted = {key for kind, rows in changes if kind == "insert" for key, _ in rows}
        assert not (deleted | inserted) & updated, f"version {version}: {(deleted | inserted) & updated} are told twice"
        for key in deleted:
            self.by_key.pop(key, None)
        self.by_key.update(come)


def check(root: Path, key: list[str]) -> dict:
    table = lake.Table(root)
    snapshot, fold, kinds, told, columns = lake.Snapshot(), None, Counter(), [], None
    folded = []
    feed: dict[int, Counter] = defaultdict(Counter)
    for version in table.versions():
        before = dict(snapshot.files)
        snapshot.apply(table.commit(version))
        snapshot.version = version
        if not snapshot.has_feed():
            assert not any("cdc" in action for action in table.commit(version)), f"version {version} has changes and no feed"
            fold = None
            continue
        # Where columns change, rows have others from then on.
        if fold is None or columns != snapshot.columns():
            columns = snapshot.columns()
            fold = Fold(keyed(table.rows(replace(snapshot, files=before)), key))
        changes = [(kind, keyed(rows, key)) for kind, rows in table.changes(snapshot)]
        told += [version] * any("cdc" in action for action in table.commit(version))
        for kind, rows in changes:
            kinds[kind] += len(rows)
            feed[version].update((kind, row) for row in rows)
        fold.apply(version, changes)
        folded.append(version)
        expected = Counter(keyed(table.rows(snapshot), key))
        assert fold.rows == expected, f"version {version}: rows that differ: {(fold.rows - expected) + (expected - fold.rows)}"
        # Another program may have doubled a key, until the next version of ours.
        if max(Counter(k for k, _ in expected).values(), default=0) <= 1:
            wrong = set(fold.by_key.items()) ^ set(expected)
            assert not wrong, f"version {version}: merged by key, these differ: {wrong}"
    return {
        "table": root.name, "first": folded[0] if folded else None, "folded": len(folded), "files": len(told),
        "kinds": kinds, "deltalake": deltalake(root, key, feed, folded),
    }


def deltalake(root: Path, key: list[str], feed: dict[int, Counter], versions: list[int]) -> str:
    """Whether `deltalake` reads the same."""
    if not versions or versions != list(range(versions[0], versions[-1] + 1)):
        return "not asked"
    try:
        rows = pa.table(DeltaTable(str(root)).load_cdf(versions[0], versions[-1]).read_all())
    except Exception as error:
        return f"refuses: {' '.join(str(error).split())}"[:300]
    found: dict[int, Counter] = defaultdict(Counter)
    names = [n for n in rows.column_names if not n.startswith(("_change_", "_commit_"))]
    pairs = keyed(rows.select(names), key)
    for version, kind, row in zip(rows["_commit_version"].to_pylist(), rows["_change_type"].to_pylist(), pairs):
        found[version][(kind, row)] += 1
    different = [v for v in versions if found[v] != feed[v]]
    if not different:
        return "right"
    actions = lake.Table(root).commit(different[0])
    operation = next(a["commitInfo"]["operation"] for a in actions if "commitInfo" in a)
    first = different[0]
    lacks, extra = feed[first] - found[first], found[first] - feed[first]
    return f"wrong in {len(different)} versions, {operation} {first}: lacks {lacks.total()}, has {extra.total()} more"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="+", help="folder of a table and its key: FOLDER=COLUMN[,COLUMN]")
    for table in parser.parse_args().table:
        folder, key = table.rsplit("=", 1)
        print(json.dumps(check(Path(folder), key.split(","))), flush=True)


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(str(error))
    lake.leave(True)
