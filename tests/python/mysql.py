"""Tables of MySQL and MariaDB and their rows, in the exact form of canonical.py.

Values are what the server prints over a connection in UTF-8 and UTC.
"""

import datetime
import functools
import re
import struct

import pyarrow as pa
import pyarrow.compute as pc
import pymysql
from pymysql.constants import CLIENT

from canonical import RAW, TEXT, Column, Type, dump

SESSION = "SET NAMES utf8mb4; SET time_zone = '+00:00'; SET SESSION innodb_lock_wait_timeout = 20"

TABLES = """
    SELECT table_schema, table_name FROM information_schema.tables
    WHERE table_type = 'BASE TABLE' AND table_schema IN (%s, %s)
"""
COLUMNS = """
    SELECT column_name, data_type, column_type, numeric_precision, numeric_scale, generation_expression <> ''
    FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position
"""
KEYS = """
    SELECT index_name, column_name FROM information_schema.statistics
    WHERE table_schema = %s AND table_name = %s AND non_unique = 0 ORDER BY index_name <> 'PRIMARY', index_name, seq_in_index
"""
NULLABLE = """
    SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s AND is_nullable = 'YES'
"""

EPOCH_DAY = datetime.date(1970, 1, 1).toordinal()
SRID_FLAG = 0x20000000


class Connection:
    """Commits by itself outside of BEGIN and COMMIT."""

    def __init__(self, source: str):
        kind, socket, self.schema = re.fullmatch("(\\w+):socket=(.*?) dbname=(.*)", source).groups()
        self.is_mariadb = kind == "mariadb"
        self.client = pymysql.connect(
            unix_socket=socket, user="root", database=self.schema, charset="utf8mb4",
            autocommit=True, conv={}, client_flag=CLIENT.MULTI_STATEMENTS | SESSION_TRACK,
        )
        self.gtid = self.told = None
        for statement in SESSION.split(";"):
            self.execute(statement)

    def execute(self, sql: str, parameters=None):
        """A cursor with the rows, as text."""
        cursor = self.client.cursor()
        arguments = parameters and tuple(map(literal, parameters))
        cursor.execute(sql if arguments is None else sql % arguments)
        if gtid := own_gtid(self.client._result):
            self.gtid = gtid
        return cursor

    def cursor(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def raw(self, sql: str) -> list[tuple]:
        """The rows, as bytes."""
        self.client.use_unicode, unicode = False, self.client.use_unicode
        try:
            return self.execute(sql).fetchall()
        finally:
            self.client.use_unicode = unicode

    def commit(self) -> str:
        """Commits, and tells the transaction's GTID, or nothing if it is in no log."""
        self.execute("COMMIT")
        return self.new_gtid()

    def new_gtid(self) -> str | None:
        """The GTID of the last transaction, unless it was told before."""
        if self.is_mariadb:
            ((self.gtid,),) = self.execute("SELECT @@last_gtid").fetchall()
        told, self.told = self.told, self.gtid
        return self.gtid if self.gtid != told else None

    def close(self):
        self.client.close()


SESSION_TRACK = 1 << 23
STATE_CHANGED = 1 << 14
TRACK_GTIDS = 3


def connect(source: str) -> Connection:
    return Connection(source)


def literal(value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (bytes, bytearray)):
        return f"x'{value.hex()}'"
    if isinstance(value, float):
        return f"{value!r}" if "e" in repr(value) else f"{value!r}e0"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    for plain, escaped in (("\\", "\\\\"), ("'", "''"), ("\0", "\\0")):
        text = text.replace(plain, escaped)
    return f"'{text}'"


def own_gtid(result) -> str | None:
    """The GTID in an OK packet's session state, with `session_track_gtids = OWN_GTID`."""
    if result is None or not getattr(result, "message", None) or not result.server_status & STATE_CHANGED:
        return None
    _, rest = lenenc(result.message)
    changes, _ = lenenc(rest)
    while changes:
        kind = changes[0]
        data, changes = lenenc(changes[1:])
        if kind == TRACK_GTIDS:
            gtid, _ = lenenc(data[1:])
            return gtid.decode()
    return None


def lenenc(data: bytes) -> tuple[bytes, bytes]:
    """A length-encoded string at the beginning, and what follows it."""
    if not data:
        return b"", b""
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(data[0], 0)
    size = int.from_bytes(data[1 : 1 + width], "little") if width else data[0]
    return data[1 + width : 1 + width + size], data[1 + width + size :]


def quote(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


# MySQL type, and the same unsigned → Delta type.
INTEGERS = {
    "tinyint": ("short", "short"),
    "smallint": ("short", "integer"),
    "mediumint": ("integer", "integer"),
    "int": ("integer", "long"),
    "bigint": ("long", "decimal(20,0)"),
}
TEXTS = """char varchar tinytext text mediumtext longtext enum set time json uuid inet4 inet6""".split()
BINARIES = "binary varbinary tinyblob blob mediumblob longblob".split()
GEOMETRIES = "geometry point linestring polygon multipoint multilinestring multipolygon geometrycollection geomcollection".split()


def type_of(data_type: str, column_type: str, precision, scale) -> Type:
    unsigned = "unsigned" in column_type or "zerofill" in column_type
    if data_type in INTEGERS:
        delta = INTEGERS[data_type][unsigned]
        return Type(delta, RAW, pa.decimal128(20, 0) if delta.startswith("decimal") else pa.int64())
    match data_type:
        case "decimal":
            if int(precision) <= 38:
                return Type(f"decimal({precision},{scale})", RAW, pa.decimal128(int(precision), int(scale)))
            return Type("string", RAW, TEXT)
        case "float" | "double":
            # As a double, a float is printed with all its digits.
            return Type(data_type, "{} * 1e0", pa.int64())
        case "bit":
            bits = int(re.search(r"\d+", column_type)[0])
            return Type("long", "{} + 0", pa.int64()) if bits < 64 else Type("decimal(20,0)", "{} + 0", pa.decimal128(20, 0))
        case "year":
            return Type("short", "{} + 0", pa.int64())
        case "date":
            return Type("date", RAW, pa.int64())
        case "datetime":
            return Type("timestamp_ntz", RAW, pa.int64())
        case "timestamp":
            return Type("timestamp", RAW, pa.int64())
        case "vector":
            return Type({"array": "float"}, RAW, element=Type("float", RAW, pa.int64()))
    if data_type in TEXTS:
        return Type("string", RAW, TEXT)
    if data_type in BINARIES or data_type in GEOMETRIES:
        return Type("binary", RAW, TEXT)
    raise KeyError(f"no type for {column_type}")


class Catalog:
    """Tables, columns and rows of one database. A relation is a database's and a table's name."""

    def __init__(self, connection: Connection):
        self.connection, self.schema = connection, connection.schema

    def tables(self) -> dict[str, tuple]:
        rows = self.connection.execute(TABLES, (self.schema, f"{self.schema}_more")).fetchall()
        return {f"{schema}.{table}": (schema, table) for schema, table in rows}

    def relation(self, name: str) -> tuple:
        return self.schema, name

    def is_ordinary(self, relation) -> bool:
        return True

    def replicated(self, relation, published=None) -> list[Column]:
        """The columns that the lake has."""
        return self.columns(relation)

    def columns(self, relation) -> list[Column]:
        found = []
        for name, data_type, column_type, precision, scale, generated in self.connection.execute(COLUMNS, relation).fetchall():
            found.append(Column(name, type_of(data_type, column_type, precision, scale), generated == "1", data_type))
        return found

    def key(self, relation) -> list[str] | None:
        """The columns of the first key without NULL: the primary one if there is one."""
        nullable = {name for name, in self.connection.execute(NULLABLE, relation).fetchall()}
        keys = {}
        for index, column in self.connection.execute(KEYS, relation).fetchall():
            keys.setdefault(index, []).append(column)
        return next((key for key in keys.values() if nullable.isdisjoint(key)), None)

    def rows(self, relation, columns: list[Column], condition: str | None = None) -> pa.Table:
        """All rows in exact form."""
        selected = ", ".join(c.type.sql.format(quote(c.name)) for c in columns)
        rows = self.connection.raw(f"SELECT {selected} FROM {'.'.join(map(quote, relation))}")
        values = list(zip(*rows)) if rows else [()] * len(columns)
        return pa.table([exact(v, c) for v, c in zip(values, columns)], [c.name for c in columns])


def exact(values: tuple, column: Column) -> pa.Array:
    """What the server has printed, in exact form."""
    kind, of = column.type, column.source
    match kind.delta:
        case "float":
            return each(lambda v: struct.unpack("<i", struct.pack("<f", float(v)))[0], values, pa.int64())
        case "double":
            return each(lambda v: struct.unpack("<q", struct.pack("<d", float(v)))[0], values, pa.int64())
        case "date":
            return each(days, values, pa.int64())
        case "timestamp" | "timestamp_ntz":
            return each(microseconds, values, pa.int64())
        case "binary":
            form = ewkb if of in GEOMETRIES else bytes
            return each(lambda v: "\\x" + form(v).hex(), values, TEXT)
        case {"array": _}:
            return each(lambda v: dump([str(bits) for (bits,) in struct.iter_unpack("<i", v)]), values, TEXT)
    texts = pa.array(values, pa.large_binary()).cast(TEXT)
    return texts if kind.arrow == TEXT else texts.cast(kind.arrow)


def each(form, values: tuple, kind: pa.DataType) -> pa.Array:
    return pa.array([None if v is None else form(v) for v in values], kind)


@functools.lru_cache(65536)
def days(text: bytes) -> int | None:
    """Days since 1970; nothing for dates that there are not: `0000-00-00`, `2024-00-10`, `2024-02-30`."""
    try:
        return datetime.date.fromisoformat(text.decode()).toordinal() - EPOCH_DAY
    except ValueError:
        return None


def microseconds(text: bytes) -> int | None:
    date, _, time = text.partition(b" ")
    day = days(date)
    if day is None:
        return None
    hours, minutes, seconds = time.split(b":")
    seconds, _, fraction = seconds.partition(b".")
    whole = day * 86400 + int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return whole * 1_000_000 + int(fraction.ljust(6, b"0"))


def ewkb(value: bytes) -> bytes:
    """WKB with the SRID in it, if there is one, from four bytes of SRID and WKB."""
    (srid,) = struct.unpack_from("<I", value)
    if srid == 0:
        return value[4:]
    order, kind = struct.unpack_from("<BI", value, 4)
    assert order == 1, "the server's WKB is little-endian"
    return struct.pack("<BII", order, kind | SRID_FLAG, srid) + value[9:]
