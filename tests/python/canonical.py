"""One exact form for a value, made from the source by SQL and from the lake by Arrow.

Integers, dates (days) and timestamps (µs) are int64, floats their bits, decimals decimals, binary hex text;
nested values are JSON text over the same forms. So no value passes through a Python date or float.
The table of types here is the contract of Tributary's type mapping, written apart from the program.
"""

import json
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

TEXT = pa.large_string()
RAW = "{}"
# Sent as µs since 2000; of a later one than int64 can hold since 1970, extract(epoch) loses digits too.
MICROSECONDS = (
    "CASE WHEN isfinite({{0}}) AND {{0}} <= '294247-01-10 04:00:54.775807+00'"
    " THEN ('x' || encode({}_send({{0}}), 'hex'))::bit(64)::bigint + 946684800000000 END"
)
# PostgreSQL type → Delta type, SQL for the exact form, its Arrow type.
SCALARS = {
    "bool": ("boolean", RAW, pa.bool_()),
    "int2": ("short", RAW, pa.int64()),
    "int4": ("integer", RAW, pa.int64()),
    "int8": ("long", RAW, pa.int64()),
    "xid8": ("decimal(20,0)", RAW, pa.decimal128(20, 0)),
    "float4": ("float", "('x' || encode(float4send({}), 'hex'))::bit(32)::int", pa.int64()),
    "float8": ("double", "('x' || encode(float8send({}), 'hex'))::bit(64)::bigint", pa.int64()),
    "money": ("decimal(19,2)", "{}::numeric(19, 2)", pa.decimal128(19, 2)),
    "bytea": ("binary", RAW, TEXT),
    "date": ("date", "CASE WHEN isfinite({0}) THEN {0} - date '1970-01-01' END", pa.int64()),
    "timestamp": ("timestamp_ntz", MICROSECONDS.format("timestamp"), pa.int64()),
    "timestamptz": ("timestamp", MICROSECONDS.format("timestamptz"), pa.int64()),
}
SCALARS |= {name: ("long", RAW, pa.int64()) for name in ("oid", "xid", "cid")}
SCALARS |= {
    f"reg{name}": ("long", "{}::oid::bigint", pa.int64())
    for name in "class collation config dictionary namespace oper operator proc procedure role type".split()
}
SCALARS |= {
    name: ("string", RAW, TEXT)
    for name in """text varchar bpchar name char citext xml json jsonb jsonpath uuid time timetz interval inet cidr
    macaddr macaddr8 bit varbit pg_lsn pg_snapshot txid_snapshot tid point line lseg box path polygon circle tsvector
    tsquery""".split()
}

SESSION = """
    SET datestyle = 'ISO'; SET intervalstyle = 'iso_8601'; SET timezone = 'UTC';
    SET extra_float_digits = 1; SET bytea_output = 'hex'; SET client_encoding = 'UTF8'
"""

CATALOG = """
    SELECT t.oid, t.typname, t.typtype, t.typcategory, t.typelem, t.typbasetype, t.typtypmod, t.typndims, t.typrelid
    FROM pg_type t
"""
COLUMNS = """
    SELECT attname, atttypid, atttypmod, attndims, attgenerated <> '' FROM pg_attribute
    WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
KEY = """
    SELECT array_agg(a.attname::text ORDER BY a.attnum)
    FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
    WHERE c.oid = %s AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
"""


@dataclass(frozen=True)
class Type:
    """`delta` is the type in the lake's schema, `sql` the exact form of `{}`, `arrow` that of a scalar."""

    delta: object
    sql: str = RAW
    arrow: pa.DataType | None = None
    element: "Type | None" = None
    fields: tuple = ()


@dataclass(frozen=True)
class Column:
    name: str
    type: Type
    generated: bool

    def select(self) -> str:
        return self.type.sql.format(quote(self.name)) if self.type.arrow else json_sql(self.type, quote(self.name))


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class Catalog:
    def __init__(self, connection):
        self.connection = connection
        self.types = {row[0]: row[1:] for row in connection.execute(CATALOG)}

    def columns(self, relation: int) -> list[Column]:
        rows = self.connection.execute(COLUMNS, (relation,)).fetchall()
        return [Column(name, self.type(oid, mod, dims), generated) for name, oid, mod, dims, generated in rows]

    def key(self, relation: int) -> list[str] | None:
        return self.connection.execute(KEY, (relation,)).fetchone()[0]

    def type(self, oid: int, modifier: int, dimensions: int) -> Type:
        name, kind, category, element, base, base_modifier, base_dimensions, relation = self.types[oid]
        match kind:
            case "d":
                return self.type(base, base_modifier, base_dimensions)
            case "e" | "r" | "m":
                return Type("string", RAW, TEXT)
            case "c":
                fields = tuple((c.name, c.type) for c in self.columns(relation))
                return Type({"struct": [(n, t.delta) for n, t in fields]}, fields=fields)
        if category == "A" and element:
            if dimensions > 1:
                return Type("string", "to_jsonb({})")
            inner = self.type(element, modifier, 0)
            return Type({"array": inner.delta}, element=inner)
        if name == "hstore":
            return Type({"map": ("string", "string")}, "hstore_to_jsonb({})")
        if name == "numeric":
            precision, scale = (modifier - 4) >> 16 & 0xFFFF, ((modifier - 4 & 0x7FF) ^ 1024) - 1024
            if modifier < 0 or precision > 38 or not 0 <= scale <= precision:
                return Type("string", RAW, TEXT)
            decimal = pa.decimal128(precision, scale)
            return Type(f"decimal({precision},{scale})", "CASE WHEN {0} <> 'NaN' THEN {0} END", decimal)
        return Type(*SCALARS[name])


def json_sql(kind: Type, value: str) -> str:
    """SQL for the exact form of a nested value: JSON, whose leaves are text."""
    if kind.element:
        item = json_sql(kind.element, f"({value})[i]")
        return (
            f"CASE WHEN {value} IS NOT NULL THEN coalesce((SELECT jsonb_agg({item} ORDER BY i)"
            f" FROM generate_series(array_lower({value}, 1), array_upper({value}, 1)) i), '[]') END"
        )
    if kind.fields:
        # ROW(NULL, NULL) IS NULL, but it is not the null row.
        pairs = ", ".join(f"'{n}', {json_sql(t, f'({value}).{quote(n)}')}" for n, t in kind.fields)
        return f"CASE WHEN {value} IS DISTINCT FROM NULL THEN jsonb_build_object({pairs}) END"
    form = kind.sql.format(value)
    # concat is the type's output function, as in COPY; a cast to text would lose the padding of a bpchar.
    return f"CASE WHEN {form} IS NOT NULL THEN concat({form}) END" if kind.arrow else form


def schema_shape(delta) -> object:
    """A type of a Delta schema string, without what may differ: nullability and metadata."""
    if isinstance(delta, str):
        return delta
    match delta["type"]:
        case "array":
            return {"array": schema_shape(delta["elementType"])}
        case "map":
            return {"map": (schema_shape(delta["keyType"]), schema_shape(delta["valueType"]))}
        case _:
            return {"struct": [(f["name"], schema_shape(f["type"])) for f in delta["fields"]]}


def from_source(column: pa.ChunkedArray, kind: Type) -> pa.ChunkedArray:
    return column if kind.arrow else map_text(column, normal_json)


def from_lake(column: pa.ChunkedArray, kind: Type) -> pa.ChunkedArray:
    if kind.arrow:
        return pa.chunked_array([scalar_form(chunk, kind) for chunk in column.chunks], kind.arrow)
    if kind.delta == "string":
        return map_text(column.cast(TEXT), normal_json)
    rows = [None if v is None else dump(v) for chunk in column.chunks for v in nested_form(chunk, kind)]
    return pa.chunked_array([pa.array(rows, TEXT)])


def scalar_form(array: pa.Array, kind: Type) -> pa.Array:
    match kind.delta:
        case "float":
            return array.view(pa.int32()).cast(pa.int64())
        case "double":
            return array.view(pa.int64())
        case "date":
            return array.cast(pa.int32()).cast(pa.int64())
        case "timestamp" | "timestamp_ntz":
            return array.cast(pa.timestamp("us", array.type.tz)).view(pa.int64())
        case "binary":
            return pa.array([None if v is None else "\\x" + v.hex() for v in array.to_pylist()], TEXT)
    return array.cast(kind.arrow)


def nested_form(array: pa.Array, kind: Type) -> list:
    """Python values, one per row; leaves as PostgreSQL's text of the exact form."""
    present = array.is_valid().to_pylist()
    if kind.element:
        items = nested_form(array.flatten(), kind.element)
        ends = iter(pc.list_value_length(array).to_pylist())
        position, rows = 0, []
        for valid, length in zip(present, ends):
            rows.append(items[position : position + length] if valid else None)
            position += length or 0
        return rows
    if kind.fields:
        columns = [nested_form(array.field(i), t) for i, (_, t) in enumerate(kind.fields)]
        names = [n for n, _ in kind.fields]
        return [dict(zip(names, row)) if valid else None for valid, row in zip(present, zip(*columns))]
    if not kind.arrow:
        return array.to_pylist(maps_as_pydicts="strict")
    return [None if v is None else leaf_text(v) for v in scalar_form(array, kind).to_pylist()]


def leaf_text(value) -> str:
    if isinstance(value, bool):
        return "t" if value else "f"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def map_text(column: pa.ChunkedArray, function) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([None if v is None else function(v) for v in column.to_pylist()], TEXT)])


def normal_json(text: str) -> str:
    return dump(json.loads(text, parse_float=Decimal))


dump = partial(json.dumps, sort_keys=True, ensure_ascii=False, default=str)
