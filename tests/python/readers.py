"""Tables of the lake as the outside readers see them that README names, against the protocol reader of lake.py.

Each reader reads all rows, ranges of the key (so it skips files and row groups by their statistics), counts and sums.
Prints one JSON object per table and reader: what is `wrong`, nothing or some of `refuses`, `rows`, `column NAME`,
`count(NAME)`, `count(*)`, `range`, `aggregate`; `details` tell more.
Needs the environment of requirements-readers.txt.
"""

import argparse
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import chdb
import duckdb
import duckdb_extension_delta
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, QueryBuilder
from deltalake import __version__ as deltalake_version

import lake
from canonical import TEXT, Type, from_lake
from compare import differences

# The greatest sum that no reader wraps: Polars adds up in the column's own type, if that has 32 bits.
SUM_MAX = {"short": 2**31 - 1, "integer": 2**31 - 1, "long": 2**63 - 1}
# A part of the rows in the order of the key, from and to; also one row.
RANGES = [(0, 0.01), (0.333, 0.34), (0.499, 0.501), (0.75, 0.75), (0.93, 1)]
# How much of a reader's error is told.
MESSAGE_MAX = 400


def exact_type(delta) -> Type:
    """The exact form of a type in a Delta schema string. Text is text here, also where it is JSON."""
    if isinstance(delta, dict):
        match delta["type"]:
            case "array":
                return Type(delta, element=exact_type(delta["elementType"]))
            case "struct":
                return Type(delta, fields=tuple((f["name"], exact_type(f["type"])) for f in delta["fields"]))
        return Type(delta)
    if decimal := re.fullmatch(r"decimal\((\d+),(\d+)\)", delta):
        return Type(delta, arrow=pa.decimal128(int(decimal[1]), int(decimal[2])))
    match delta:
        case "boolean":
            return Type(delta, arrow=pa.bool_())
        case "string" | "binary":
            return Type(delta, arrow=TEXT)
    return Type(delta, arrow=pa.int64())


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value) -> str:
    if isinstance(value, int):
        return str(value)
    # ClickHouse takes a backslash for an escape, the others don't.
    assert isinstance(value, str) and "\\" not in value, f"no literal for {value!r}"
    return "'" + value.replace("'", "''") + "'"


class Expected:
    """What the protocol reader sees."""

    def __init__(self, root: Path, key: list[str]):
        table = lake.Table(root)
        snapshot = table.snapshot()
        self.root, self.key, self.version = root, key, snapshot.version
        self.types = {f["name"]: f["type"] for f in snapshot.columns()}
        self.has_vectors = any(add.get("deletionVector") for add in snapshot.files.values())
        self.is_mapped = snapshot.is_mapped()
        files = [pq.read_metadata(root / unquote(add["path"])) for add in snapshot.files.values()]
        # Of the file that has the most.
        self.row_groups = max((file.num_row_groups for file in files), default=0)
        self.rows = self.exact(table.read()).sort_by([(k, "ascending") for k in key]).combine_chunks()

    def exact(self, rows: pa.Table) -> pa.Table:
        """Rows of some columns in the exact form, whatever Arrow type a reader gives them."""
        columns = {}
        for name in rows.column_names:
            kind = self.types[name]
            column = rows[name].cast(lake.arrow_type(kind))
            columns[name] = from_lake(pa.chunked_array(column.chunks or [pa.array([], column.type)]), exact_type(kind))
        return pa.table(columns)

    def count(self, column: str) -> int:
        return len(self.rows) - self.rows[column].null_count

    def aggregate(self) -> dict[str, object]:
        """SQL of an aggregate → its value."""
        found = {f"count(distinct {quoted(self.key[0])})": pc.count_distinct(self.rows[self.key[0]]).as_py()}
        for name in self.key:
            ends = pc.min_max(self.rows[name]).as_py()
            found |= {f"min({quoted(name)})": ends["min"], f"max({quoted(name)})": ends["max"]}
        for name, kind in self.types.items():
            # Types of a struct or an array are no names.
            if isinstance(kind, str) and kind in SUM_MAX:
                total = pc.sum(self.rows[name].cast(pa.decimal128(38, 0))).as_py()
                if total is None or abs(total) <= SUM_MAX[kind]:
                    found[f"sum({quoted(name)})"] = total
        return found

    def ranges(self) -> list[dict[str, tuple]]:
        """Conditions: key column → least and greatest value."""
        if not len(self.rows):
            return []
        last = len(self.rows) - 1
        found = []
        for ends in RANGES:
            first, then = ({k: self.rows[k][int(last * end)].as_py() for k in self.key} for end in ends)
            found.append({k: tuple(sorted([first[k], then[k]])) for k in self.key})
            # By a column that the order of the rows does not follow, too.
            found += [{k: found[-1][k]} for k in self.key[1:]]
        return found

    def within(self, condition: dict[str, tuple]) -> pa.Table:
        keep = None
        for name, (least, greatest) in condition.items():
            column = self.rows[name]
            part = pc.and_(pc.greater_equal(column, pa.scalar(least, column.type)), pc.less_equal(column, pa.scalar(greatest, column.type)))
            keep = part if keep is None else pc.and_(keep, part)
        return self.rows.filter(keep)


class Deltalake:
    """A reader: it opens a table, then selects from `{t}`."""

    name, program, version = "deltalake", "deltalake", deltalake_version

    def open(self, root: Path) -> None:
        self.table = DeltaTable(str(root))
        self.builder = QueryBuilder().register("t", self.table)

    def select(self, sql: str) -> pa.Table:
        return pa.table(self.builder.execute(sql.format(t="t")).read_all())


class DeltalakeCount(Deltalake):
    name = "DeltaTable.count"


class DeltalakePyarrow(Deltalake):
    name = "DeltaTable.to_pyarrow_table"


class Polars:
    name, program, version = "Polars", "Polars", pl.__version__

    def open(self, root: Path) -> None:
        self.context = pl.SQLContext(t=pl.scan_delta(str(root)))

    def select(self, sql: str) -> pa.Table:
        return self.context.execute(sql.format(t="t")).collect().to_arrow()


class DuckDb:
    name, program, version = "DuckDB", "DuckDB", duckdb.__version__

    def open(self, root: Path) -> None:
        self.root, self.connection = root, duckdb.connect()
        folder = Path(duckdb_extension_delta.__file__).parent / "extensions" / f"v{duckdb.__version__}"
        self.connection.execute(f"LOAD '{folder}/delta.duckdb_extension'")
        self.connection.execute("SET TimeZone = 'UTC'")

    def select(self, sql: str) -> pa.Table:
        return self.connection.execute(sql.format(t=f"delta_scan('{self.root}')")).to_arrow_table()


class ChDb:
    name, program, version = "chDB", "chDB", chdb.__version__

    def open(self, root: Path) -> None:
        # It reads nothing that is not below the working directory.
        os.chdir(root.parent)
        self.root = root

    def select(self, sql: str) -> pa.Table:
        # As text, what is no UTF-8 could not be told.
        settings = " SETTINGS output_format_arrow_string_as_string = 0"
        found = chdb.query(sql.format(t=f"deltaLakeLocal('{self.root}')") + settings, "Arrow")
        return pa.ipc.open_file(pa.BufferReader(found.bytes())).read_all()


class Refusal(Exception):
    """A reader's own error."""


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MESSAGE_MAX]


def asked(call):
    try:
        return call()
    except (KeyboardInterrupt, SystemExit):
        raise
    # A panic in Polars is no Exception.
    except BaseException as error:
        raise Refusal(told(error)) from error


class Verdict:
    """What a reader gets wrong."""

    def __init__(self, expected: Expected):
        self.expected, self.wrong, self.details = expected, [], []

    def report(self, what: str, detail) -> None:
        if what not in self.wrong:
            self.wrong.append(what)
        self.details.append(f"{what}: {detail}")

    def judge(self, reader) -> "Verdict":
        try:
            asked(lambda: reader.open(self.expected.root))
            if isinstance(reader, DeltalakeCount):
                self.compare_count("count()", asked(reader.table.count))
            elif isinstance(reader, DeltalakePyarrow):
                self.compare_rows(asked(reader.table.to_pyarrow_table))
            else:
                self.judge_sql(reader)
        except Refusal as refusal:
            self.report("refuses", refusal)
        return self

    def judge_sql(self, reader) -> None:
        def select(what, condition=""):
            return asked(lambda: reader.select(f"SELECT {what} FROM {{t}}{condition}"))

        def row(what):
            return [value for [value] in select(what).to_pydict().values()]

        self.compare_rows(select("*"))
        names = list(self.expected.types)
        for name, count in zip(names, row(", ".join(f"count({quoted(n)}) AS c{i}" for i, n in enumerate(names)))):
            self.compare_count(f"count({name})", count, self.expected.count(name))
        self.compare_count("count(*)", row("count(*) AS c")[0])
        wanted = self.expected.aggregate()
        for sql, value in zip(wanted, row(", ".join(f"{sql} AS a{i}" for i, sql in enumerate(wanted)))):
            found = value.decode() if isinstance(value, bytes) else value
            if found != wanted[sql]:
                self.report("aggregate", f"{sql} is {wanted[sql]!r}, found {found!r}")
        right = [name for name in names if f"column {name}" not in self.wrong or name in self.expected.key]
        for condition in self.expected.ranges():
            sql = " AND ".join(f"{quoted(k)} >= {literal(a)} AND {quoted(k)} <= {literal(z)}" for k, (a, z) in condition.items())
            found = select(", ".join(map(quoted, right)), f" WHERE {sql}")
            wanted = self.expected.within(condition).select(right)
            for problem in differences(wanted, self.expected.exact(found), self.expected.key):
                self.report("range", f"{sql}: {problem}")

    def compare_rows(self, found: pa.Table) -> None:
        missing = self.expected.types.keys() ^ set(found.column_names)
        if missing:
            self.report("columns", f"{missing} are not in both")
            return
        columns = []
        for name in self.expected.types:
            try:
                columns.append(self.expected.exact(found.select([name]))[name])
            except (pa.ArrowException, NotImplementedError) as error:
                self.report(f"column {name}", f"{found.schema.field(name).type}: {told(error)}")
        if len(columns) == len(self.expected.types):
            names = list(self.expected.types)
        else:
            names = [n for n in self.expected.types if f"column {n}" not in self.wrong]
        problems = differences(self.expected.rows.select(names), pa.table(columns, names), self.expected.key)
        what = "rows"
        for problem in problems:
            if column := re.match(r"column (.+) differs in \d+ rows$", problem):
                what = f"column {column[1]}"
            self.report(what, problem)

    def compare_count(self, what: str, found: int, wanted: int | None = None) -> None:
        wanted = len(self.expected.rows) if wanted is None else wanted
        if found != wanted:
            self.report(what, f"{wanted} expected, found {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", nargs="+", help="folder of a table and its key: FOLDER=COLUMN[,COLUMN]")
    arguments = parser.parse_args()
    readers = [Deltalake(), DeltalakeCount(), DeltalakePyarrow(), Polars(), DuckDb(), ChDb()]
    for table in arguments.table:
        folder, key = table.rsplit("=", 1)
        expected = Expected(Path(folder).absolute(), key.split(","))
        for reader in readers:
            verdict = Verdict(expected).judge(reader)
            print(json.dumps({
                "table": Path(folder).name, "version": expected.version, "rows": len(expected.rows),
                "vectors": expected.has_vectors, "mapped": expected.is_mapped, "row_groups": expected.row_groups,
                "reader": reader.name, "program": reader.program, "release": reader.version,
                "wrong": verdict.wrong, "details": verdict.details[:20],
            }, default=str), flush=True)


if __name__ == "__main__":
    main()
    lake.leave(True)
