"""PostgreSQL's tables and their rows, in the exact form of canonical.py."""

import io

import psycopg
import pyarrow as pa
import pyarrow.csv

from canonical import RAW, TEXT, Column, Type, map_text, normal_json

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
# Rows of inheritance children are their own tables', those of partitions are their root's too.
TABLES = """
    SELECT n.nspname || '.' || c.relname, c.oid, CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || c.oid::regclass::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_|^information_schema$'
"""
# Partitioned tables and their leaves: only one of them is in the lake.
ORDINARY = "SELECT relkind = 'r' AND NOT relispartition FROM pg_class WHERE oid = %s"
PUBLISHED = """
    SELECT schemaname || '.' || tablename, attnames::text[], rowfilter FROM pg_publication_tables WHERE pubname = %s
"""


def connect(source: str) -> psycopg.Connection:
    return psycopg.connect(source, autocommit=True, prepare_threshold=None)


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class Catalog:
    """Tables, columns and rows. A relation is an oid, and what SQL has after FROM."""

    schema = "public"

    def __init__(self, connection):
        self.connection = connection
        connection.execute(SESSION)
        self.types = {row[0]: row[1:] for row in connection.execute(CATALOG)}

    def tables(self) -> dict[str, tuple]:
        return {table: (oid, source) for table, oid, source in self.connection.execute(TABLES)}

    def relation(self, name: str) -> tuple:
        return self.tables()[f"{self.schema}.{name}"]

    def is_ordinary(self, relation) -> bool:
        return self.connection.execute(ORDINARY, (relation[0],)).fetchone()[0]

    def published(self, publication: str) -> dict[str, tuple]:
        """Table → names of columns, condition of rows."""
        rows = self.connection.execute(PUBLISHED, (publication,))
        return {table: (names, condition) for table, names, condition in rows}

    def replicated(self, relation, published=None) -> list[Column]:
        """The columns that the lake has."""
        # Before PostgreSQL 18 the view lists generated columns, which are never published.
        generated = published is not None and self.connection.info.server_version >= 180000
        columns = [c for c in self.columns(relation) if published is None or c.name in published]
        return [c for c in columns if generated or not c.generated]

    def columns(self, relation) -> list[Column]:
        return self.columns_of(relation[0])

    def columns_of(self, oid: int) -> list[Column]:
        rows = self.connection.execute(COLUMNS, (oid,)).fetchall()
        return [Column(name, self.type(oid, mod, dims), generated) for name, oid, mod, dims, generated in rows]

    def key(self, relation) -> list[str] | None:
        return self.connection.execute(KEY, (relation[0],)).fetchone()[0]

    def rows(self, relation, columns: list[Column], condition: str | None = None) -> pa.Table:
        """All rows in exact form."""
        where = f" WHERE {condition}" if condition else ""
        query = f"SELECT {', '.join(map(select, columns))} FROM {relation[1]}{where}"
        text = io.BytesIO()
        with self.connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT csv, FORCE_QUOTE *)") as copy:
            for block in copy:
                text.write(block)
        text.seek(0)
        names = [c.name for c in columns]
        if not text.getbuffer():
            return pa.table([pa.array([], c.type.arrow or TEXT) for c in columns], names)
        positions = [str(i) for i in range(len(columns))]
        rows = pyarrow.csv.read_csv(
            text,
            pyarrow.csv.ReadOptions(column_names=positions, block_size=64 << 20),
            pyarrow.csv.ParseOptions(newlines_in_values=True),
            pyarrow.csv.ConvertOptions(
                column_types={p: c.type.arrow or TEXT for p, c in zip(positions, columns)},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=["t"],
                false_values=["f"],
            ),
        )
        return pa.table([from_source(rows[p], c.type) for p, c in zip(positions, columns)], names)

    def type(self, oid: int, modifier: int, dimensions: int) -> Type:
        name, kind, category, element, base, base_modifier, base_dimensions, relation = self.types[oid]
        match kind:
            case "d":
                return self.type(base, base_modifier, base_dimensions)
            case "e" | "r" | "m":
                return Type("string", RAW, TEXT)
            case "c":
                fields = tuple((c.name, c.type) for c in self.columns_of(relation))
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


def select(column: Column) -> str:
    kind = column.type
    return kind.sql.format(quote(column.name)) if kind.arrow else json_sql(kind, quote(column.name))


def from_source(column: pa.ChunkedArray, kind: Type) -> pa.ChunkedArray:
    return column if kind.arrow else map_text(column, normal_json)
