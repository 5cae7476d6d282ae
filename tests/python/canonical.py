"""One exact form for a value, made from the source by SQL and from the lake by Arrow.

Integers, dates (days) and timestamps (µs) are int64, floats their bits, decimals decimals, binary hex text;
nested values are JSON text over the same forms. So no value passes through a Python date or float.
postgres.py and mysql.py have the types of their sources: the contract of Tributary's type mapping, written apart from
the program.
"""

import json
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

TEXT = pa.large_string()
RAW = "{}"


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
    # The source's own name of the type, where `type` does not tell how a value is read.
    source: str = ""


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
    """Python values, one per row; leaves as text of the exact form."""
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
