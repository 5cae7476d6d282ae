"""Whether `_tributary/cuts` lists versions that belong together, as outside readers see them.

The tables move amounts among each other in transactions, so the sum of all their amounts never changes.

    cuts.py check LAKE SCHEMA TOTAL TABLE…   every cut that has all tables keeps the sum; positions and versions ascend;
                                             prints how many there are, and how many sums of mixed cuts are wrong
    cuts.py heads LAKE SCHEMA TABLE…         the sum over the newest versions
    cuts.py newest LAKE SCHEMA TABLE…        the sum over the newest cut
"""

import functools
import os
import sys

import lake
import positions


def read(root: str) -> dict[int, list[dict]]:
    """The rows of each cut, in order."""
    folder = f"{root}/_tributary/cuts"
    cuts = {}
    for row in sorted(lake.read_deltalake(folder).to_pylist(), key=lambda row: row["cut"]):
        cuts.setdefault(row["cut"], []).append(row)
    rows = sum(len(rows) for rows in cuts.values())
    assert len(lake.Table(folder).read()) == rows, "two readers see different cuts"
    return cuts


@functools.cache
def amount(path: str, version: int | None) -> int:
    """The sum of a table's amounts in a version."""
    return int(lake.query(path, "select coalesce(sum(amount), 0) from t", version)[0][0])


def versions(root: str, schema: str, rows: list[dict], tables: list[str]) -> dict[str, tuple[str, int]] | None:
    """Folder and version of each table, if the cut has all of them."""
    found = {row["table_name"]: (f"{root}/{row['path']}", row["version"]) for row in rows}
    names = [f"{schema}.{table}" for table in tables]
    return {name: found[name] for name in names} if found.keys() >= set(names) else None


def check(root: str, schema: str, total: int, tables: list[str]) -> None:
    cuts = read(root)
    assert list(cuts) == list(range(1, len(cuts) + 1)), f"numbers {list(cuts)}"
    whole, broken, mixed, before, highest = 0, 0, 0, None, {}
    last = None
    for number, rows in cuts.items():
        assert len({(r["position"], r["committed_at"], r["recorded_at"]) for r in rows}) == 1, f"cut {number} is several"
        position = positions.parse(rows[0]["position"])
        assert last is None or position.covers(last), f"cut {number} goes back to {rows[0]['position']}"
        last = position
        assert rows[0]["committed_at"] <= rows[0]["recorded_at"], f"cut {number} is from the future: {rows[0]}"
        for row in rows:
            assert row["version"] >= highest.get(row["path"], 0), f"cut {number} goes back: {row}"
            highest[row["path"]] = row["version"]
        now = versions(root, schema, rows, tables)
        if now is None:
            before = None
            continue
        whole += 1
        found = sum(amount(*place) for place in now.values())
        assert found == total, f"cut {number} of {rows[0]['position']} has {found} instead of {total}: {now}"
        first = f"{schema}.{tables[0]}"
        if before and before[first] != now[first]:
            mixed += 1
            broken += sum(amount(*place) for place in (before | {first: now[first]}).values()) != total
        before = now
    print(len(cuts), whole, mixed, broken)


def main():
    match sys.argv[1:]:
        case ["check", root, schema, total, *tables]:
            check(root, schema, int(total), tables)
        case ["heads", root, schema, *tables]:
            print(sum(amount(f"{root}/{schema}/{table}", None) for table in tables))
        case ["newest", root, schema, *tables]:
            rows = list(read(root).values())[-1]
            print(sum(amount(*place) for place in versions(root, schema, rows, tables).values()))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    lake.leave(True)
