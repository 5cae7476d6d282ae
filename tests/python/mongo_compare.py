"""Compares collections with the lake's tables, document by document, through both outside readers.

A row is put together again: its columns that are not NULL, and the fields of `_extra`. Whole documents are compared;
the order of fields isn't. Numbers in columns of numbers are compared by value, everything else with its type.

The source must be at rest and the lake caught up. Prints one line per table, and per difference; exits with 1 if
there is a difference.
"""

import argparse
import math
import struct
import uuid

import pyarrow as pa
from pymongo.read_concern import ReadConcern

import lake
import mongo
from canonical import schema_shape
from mongo_transforms import Transforms
from mongo_values import EXACT, NUMBERS, decode_all, identity, number, parse

SHOWN = 5
SHAPE = "tributary.shape"
TEXTS = {"objectId", "uuid", "string", "json", "extra", "document"}
PLAIN = {"bool": "boolean", "long": "long", "double": "double", "binary": "binary", "date": "timestamp"}
# Doubles have all whole numbers up to it.
WHOLE_MAX = 2**53


def delta_type(kind):
    """The type of a kind of column, as of `schema_shape`."""
    match kind:
        case str():
            return "string" if kind in TEXTS else PLAIN[kind]
        case {"decimal": scale}:
            return f"decimal(38,{scale})"
        case {"array": inside}:
            return {"array": delta_type(inside)}
        case {"struct": fields}:
            return {"struct": [(name, delta_type(inside)) for name, inside in fields]}


def kinds(snapshot: lake.Snapshot) -> dict:
    """Column → its kind, in order."""
    shape = lake.json.loads(snapshot.domains[SHAPE])
    return {column["name"]: column["source"]["bson"] for column in shape["columns"]}


def whole_dates(kind: pa.DataType) -> pa.DataType:
    """The type with numbers for timestamps, of which Python has too few."""
    if pa.types.is_timestamp(kind):
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(whole_dates(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, whole_dates(field.type)) for field in kind])
    return kind


def rows(table: pa.Table, columns: list[dict]) -> list[dict]:
    names = [column["name"] for column in columns]
    values = []
    for column in columns:
        kind = lake.arrow_type(column["type"])
        values.append(table[column["name"]].cast(kind).cast(whole_dates(kind)).to_pylist())
    return [dict(zip(names, row)) for row in zip(*values)]


def from_column(kind, value) -> tuple:
    """What a column's value says. Of numbers the type is not known: ("number", kind, value)."""
    match kind:
        case "objectId":
            return ("objectId", value)
        case "uuid":
            parsed = uuid.UUID(value)
            return ("binary", 4, parsed.bytes) if str(parsed) == value else ("no canonical UUID", value)
        case "string":
            return ("string", value)
        case "bool":
            return ("bool", value)
        case "binary":
            return ("binary", 0, value)
        case "date":
            return ("date", value // 1000) if value % 1000 == 0 else ("microseconds", value)
        case "json" | "document":
            return parse(value)
        case {"array": inside}:
            return ("array", [("null",) if item is None else from_column(inside, item) for item in value])
        case {"struct": fields}:
            inside = {name: from_column(kind, value[name]) for name, kind in fields if value[name] is not None}
            return ("document", inside)
    return ("number", kind, value)


def same_number(expected: tuple, kind, found) -> bool:
    value = number(expected)
    match kind, expected[0]:
        case "long", "int" | "long":
            return value == found
        case "long", "double":
            return fits("long", expected) and value == found
        case "double", "double":
            return math.isnan(found) if expected[1] == "NaN" else expected[1] == struct.pack(">d", found)
        case "double", "int" | "long":
            return abs(value) <= WHOLE_MAX and value == found and math.copysign(1, found) == math.copysign(1, value)
        case {"decimal": _}, "int" | "long" | "decimal":
            return value.is_finite() and value == found and not (value.is_signed() and value == 0)
        case "any", _:
            return identity(expected) == found
    return False


def same(expected: tuple, found: tuple) -> bool:
    if found[0] == "number":
        return expected[0] in NUMBERS and same_number(expected, *found[1:])
    if expected[0] != found[0]:
        return False
    match expected[0]:
        case "document":
            inside = found[1]
            return expected[1].keys() == inside.keys() and all(same(v, inside[n]) for n, v in expected[1].items())
        case "array":
            return len(expected[1]) == len(found[1]) and all(map(same, expected[1], found[1]))
    return expected == found


def by_value(value: tuple) -> tuple:
    """With numbers of no type in particular."""
    match value:
        case ("document", fields):
            return ("document", {name: by_value(item) for name, item in fields.items()})
        case ("array", items):
            return ("array", [by_value(item) for item in items])
    return ("number", "any", identity(value)) if value[0] in NUMBERS else value


def fits(kind, value: tuple) -> bool:
    """A column of this kind has the value whole."""
    match kind, value[0]:
        case "uuid", "binary":
            return value[1] == 4 and len(value[2]) == 16
        case "binary", "binary":
            return value[1] == 0
        case "date", "date":
            return -(2**63) <= value[1] * 1000 < 2**63
        case "long", "int" | "long":
            return True
        case "long", "double":
            plain = number(value)
            negative_zero = plain == 0 and plain.is_signed()
            return plain.is_finite() and plain == plain.to_integral_value() and abs(plain) <= WHOLE_MAX and not negative_zero
        case "double", "int" | "long":
            return abs(value[1]) <= WHOLE_MAX
        case {"decimal": scale}, "int" | "long" | "decimal":
            plain = number(value)
            if not plain.is_finite() or (plain.is_signed() and plain == 0):
                return False
            scaled = plain.scaleb(scale, EXACT)
            return scaled == scaled.to_integral_value() and abs(scaled) < 10**38
        case {"array": inside}, "array":
            return all(item[0] == "null" or fits(inside, item) for item in value[1])
        case {"struct": fields}, "document":
            known = dict(fields)
            return all(name in known and fits(known[name], item) for name, item in value[1].items())
        case "json", kind:
            return kind != "null"
    return kind == value[0]


def from_row(row: dict, columns: dict) -> tuple[tuple, list[str]]:
    """The document that a row is, and what is wrong with the row itself."""
    if "document" in columns.values():
        (name,) = (name for name, kind in columns.items() if kind == "document")
        document = parse(row[name])
        key = from_column(columns["_id"], row["_id"])
        wrong = same(document[1].get("_id", ("no _id",)), by_value(key) if columns["_id"] == "json" else key)
        return document, [] if wrong else ["_id is another one than the document's"]
    found, problems = {}, []
    for name, kind in columns.items():
        if kind != "extra" and row[name] is not None:
            value = from_column(kind, row[name])
            found[name] = by_value(value) if name == "_id" and kind == "json" else value
    (extra,) = (name for name, kind in columns.items() if kind == "extra")
    if row[extra] is not None:
        rest = parse(row[extra])
        if rest[0] != "document" or not rest[1]:
            return ("document", found), [f"_extra is no object of fields: {row[extra]:.200}"]
        problems = [f"{name!r} is in its column and in _extra" for name in found.keys() & rest[1].keys()]
        found |= {name: value for name, value in rest[1].items() if name not in found}
    return ("document", found), problems


def key_of(document: tuple) -> tuple:
    match document[1].get("_id", ("no _id",)):
        case ("number", "any", key):
            return key
        case ("number", "double", value):
            return identity(("double", struct.pack(">d", value)))
        case ("number", _, value):
            return identity(("decimal", str(value)))
        case ("document", _) as value:
            return plain_identity(value)
        case value:
            return identity(value)


def plain_identity(value: tuple) -> tuple:
    match value:
        case ("number", "any", key):
            return key
        case ("document", fields):
            return ("document", tuple((name, plain_identity(item)) for name, item in fields.items()))
        case ("array", items):
            return ("array", tuple(map(plain_identity, items)))
    return identity(value)


def difference(expected: dict, found: dict) -> str:
    problems = []
    for name in [*expected, *(found.keys() - expected.keys())]:
        left, right = expected.get(name, "absent"), found.get(name, "absent")
        if "absent" in (left, right) or not same(left, right):
            problems.append(f"{name!r}: expected {left!r:.300}, found {right!r:.300}")
    return "; ".join(problems[:SHOWN])


def differences(source: list[tuple], table: pa.Table, snapshot: lake.Snapshot, strict: bool) -> list[str]:
    columns = kinds(snapshot)
    expected = {identity(document[1]["_id"]): document[1] for document in source}
    if len(expected) < len(source):
        return ["the source has an _id twice"]
    problems, seen = [], set()
    system = lake.system_columns(snapshot)
    for row in rows(lake.alive(table, system, ["_id"]), [c for c in snapshot.own_columns() if c["name"] not in system]):
        (_, found), wrong = from_row(row, columns)
        key = key_of(("document", found))
        if key in seen:
            problems.append(f"{key!r:.300} is doubled")
        elif key not in expected:
            problems.append(f"{key!r:.300} is not in the source")
        else:
            document = expected[key]
            if not same(("document", document), ("document", found)):
                wrong.append(difference(document, found))
            if strict:
                left_out = [n for n, k in columns.items() if k != "extra" and row[n] is None and n in document]
                wrong += [f"{n!r} fits its column and is in _extra" for n in left_out if fits(columns[n], document[n])]
            problems += [f"_id {key!r:.300}: {problem}" for problem in wrong]
        seen.add(key)
    problems += [f"{key!r:.300} is missing" for key in expected.keys() - seen]
    return problems


def shape_problems(snapshot: lake.Snapshot) -> list[str]:
    if SHAPE not in snapshot.domains:
        return [f"no {SHAPE} in the log"]
    columns, delta = kinds(snapshot), {f["name"]: schema_shape(f["type"]) for f in snapshot.own_columns()}
    for name in lake.system_columns(snapshot):
        del delta[name]
    if list(columns) != list(delta):
        return [f"the shape has the columns {list(columns)}, the schema {list(delta)}"]
    problems = [
        f"column {name} is of kind {kind} and of type {delta[name]}"
        for name, kind in columns.items()
        if delta[name] != delta_type(kind)
    ]
    last = list(columns.values())[-1]
    if next(iter(columns)) != "_id" or last not in ("extra", "document"):
        problems.append(f"columns in another order: {list(columns)}")
    return problems


def compare(collection, root, strict: bool, transforms: Transforms) -> tuple[int, list[str]]:
    batches = collection.find_raw_batches(batch_size=1000)
    source = [transforms.document(d) for batch in batches for d in decode_all(batch)]
    oracle = lake.Table(root)
    snapshot = oracle.snapshot()
    problems = shape_problems(snapshot) + lake.audit(root)
    if problems:
        return len(source), problems
    for reader, table in (("oracle", oracle.read()), ("deltalake", lake.read_deltalake(root))):
        found = differences(source, table, snapshot, strict)
        problems += [f"{reader}: {p}" for p in found[:SHOWN] + lake.partition_problems(snapshot, table)]
        if len(found) > SHOWN:
            problems.append(f"{reader}: {len(found)} differences in all")
    return len(source), problems


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="URL of the server")
    parser.add_argument("--lake", required=True, help="the lake's directory")
    parser.add_argument("--database", help="default: all but the server's own")
    parser.add_argument("--strict", action="store_true", help="what fits its column must be there: no column is younger than its rows")
    parser.add_argument("--transforms", default="{}", help="what becomes of fields, as JSON: see mongo_transforms.py")
    parser.add_argument("collections", nargs="*", help="collections of the database, default all")
    arguments = parser.parse_args()
    client, transforms = mongo.connect(arguments.source), Transforms(arguments.transforms)
    databases = [arguments.database] if arguments.database else client.list_database_names()
    replicated, equal, known = lake.tables(arguments.lake), True, set()
    for database in (d for d in databases if d not in ("admin", "config", "local")):
        there = client[database].list_collections(filter={"type": "collection"})
        there = sorted(c["name"] for c in there if not c["name"].startswith("system."))
        known |= {f"{database}.{name}" for name in there}
        for name in arguments.collections or there:
            table = f"{database}.{name}"
            if table not in replicated:
                count, problems = "?", ["not in the lake"]
            else:
                collection = client[database].get_collection(name, read_concern=ReadConcern("majority"))
                count, problems = compare(collection, replicated[table], arguments.strict, transforms)
            equal &= not problems
            print(f"{table}: {count} documents", "equal" if not problems else "DIFFER")
            print("".join(f"  {p}\n" for p in problems), end="")
    if not arguments.collections:
        for table in sorted(replicated.keys() - known):
            state = lake.Table(replicated[table]).snapshot().state().get("state")
            if state != "dropped" and (not arguments.database or table.startswith(f"{arguments.database}.")):
                equal = False
                print(f"{table}: not in the source, and its state is {state}")
    return equal


if __name__ == "__main__":
    lake.leave(main())
