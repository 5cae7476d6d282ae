"""Compares tables of the source with those of the lake, row by row and bit by bit, through both outside readers.

The source must be at rest and the lake caught up. Prints one line per table, and per difference; exits with 1 if
there is a difference.
"""

import argparse

import pyarrow as pa
import pyarrow.compute as pc

import lake
import source
from canonical import from_lake, schema_shape
from transforms import Transforms

SHOWN = 5


def exact(rows: pa.Table, columns: list) -> pa.Table:
    return pa.table([from_lake(rows[c.name], c.type) for c in columns], [c.name for c in columns])


def differences(expected: pa.Table, found: pa.Table, key: list[str]) -> list[str]:
    problems = []
    if len(expected) != len(found):
        problems.append(f"{len(expected)} rows expected, {len(found)} found")
        left, right = (set(zip(*(t[k].to_pylist() for k in key))) for t in (expected, found))
        for word, keys in (("missing", left - right), ("not in the source", right - left)):
            if keys:
                problems.append(f"{len(keys)} keys {word}: {sorted(keys, key=str)[:SHOWN]}")
        if len(right) < len(found):
            problems.append(f"{len(found) - len(right)} rows are doubled")
        return problems
    order = [(k, "ascending") for k in key]
    expected, found = expected.sort_by(order).combine_chunks(), found.sort_by(order).combine_chunks()
    for name in expected.column_names:
        left, right = expected[name], found[name]
        if left.equals(right):
            continue
        both_null = pc.and_(left.is_null(), right.is_null())
        unequal = pc.invert(pc.or_(both_null, pc.fill_null(pc.equal(left, right), False)))
        at = pc.indices_nonzero(unequal).to_pylist()
        problems.append(f"column {name} differs in {len(at)} rows")
        for i in at[:SHOWN]:
            where = tuple(expected[k][i].as_py() for k in key)
            problems.append(f"  key {where}: expected {left[i].as_py()!r:.200}, found {right[i].as_py()!r:.200}")
    return problems


def compare(catalog, relation, root, published=None, transforms=Transforms(), remote=None) -> tuple[int, list[str]]:
    """The table's rows at the source, and its differences. `published` is a list of columns and a condition; `remote`
    is where deltalake reads what `root` is a copy of."""
    oracle = lake.Table(root)
    snapshot = oracle.snapshot()
    delta = {f["name"]: schema_shape(f["type"]) for f in snapshot.own_columns()}
    system = lake.system_columns(snapshot)
    if system and list(delta)[-len(system) :] != system:
        return 0, [f"the lake's own columns are not the last: {list(delta)}"]
    delta = {name: kind for name, kind in delta.items() if name not in system}
    names, condition = published or (None, None)
    replicated = catalog.replicated(relation, names)
    columns = transforms.columns(replicated)
    problems = [
        f"column {c.name}: expected type {c.type.delta}, found {delta.get(c.name)}"
        for c in columns
        if delta.get(c.name) != c.type.delta
    ]
    problems += [f"column {name} is not in the source" for name in delta.keys() - {c.name for c in columns}]
    if not problems and list(delta) != [c.name for c in columns]:
        problems.append(f"columns in another order: {list(delta)}")
    problems += lake.audit(root)
    expected = transforms.rows(catalog.rows(relation, replicated, condition), replicated)
    if problems:
        return len(expected), problems
    key = catalog.key(relation)
    for reader, rows in (("oracle", oracle.read()), ("deltalake", lake.read_deltalake(remote or root))):
        problems += [f"{reader}: {p}" for p in differences(expected, exact(lake.alive(rows, system, key), columns), key)]
        problems += [f"{reader}: {p}" for p in lake.partition_problems(snapshot, rows)]
    return len(expected), problems


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="connection string of the database")
    parser.add_argument("--lake", required=True, help="the lake's directory")
    parser.add_argument("--remote", help="the URL of the lake that the directory is a copy of, for deltalake")
    parser.add_argument("--publication", help="compare the tables, columns and rows that it publishes")
    parser.add_argument("--transforms", default="{}", help="what becomes of columns, as JSON: see transforms.py")
    parser.add_argument("tables", nargs="*", help="[schema.]table, default all that are not partitioned")
    arguments = parser.parse_args()
    equal = True
    transforms = Transforms(arguments.transforms)
    catalog = source.catalog(arguments.source)
    relations = catalog.tables()
    published = catalog.published(arguments.publication) if arguments.publication else {}
    replicated = lake.tables(arguments.lake)
    named = [name if "." in name else f"{catalog.schema}.{name}" for name in arguments.tables]
    ordinary = [table for table, relation in relations.items() if catalog.is_ordinary(relation)]
    for table in named or sorted(published or ordinary):
        if table not in replicated:
            rows, problems = "?", ["not in the lake"]
        else:
            root = replicated[table]
            remote = arguments.remote and f"{arguments.remote}/{root.relative_to(arguments.lake)}"
            rows, problems = compare(catalog, relations[table], root, published.get(table), transforms, remote)
        equal &= not problems
        print(f"{table}: {rows} rows", "equal" if not problems else "DIFFER")
        print("".join(f"  {p}\n" for p in problems), end="")
    if not named:
        for table in sorted(replicated.keys() - relations.keys()):
            state = lake.Table(replicated[table]).snapshot().state().get("state")
            if state != "dropped":
                equal = False
                print(f"{table}: not in the source, and its state is {state}")
    return equal


if __name__ == "__main__":
    lake.leave(main())
