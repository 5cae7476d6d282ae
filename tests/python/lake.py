"""The lake as outside readers see it.

Two readers that share no code with Tributary or with each other:

- `Table`, the oracle: written from the protocol text (JSON commits, checkpoints, deletion vectors of type
  `u`), with pyarrow for Parquet and pyroaring for bitmaps. It refuses every table feature it does not know.
- `read_deltalake`: the `deltalake` package's SQL reader.

`audit` checks the rules of the protocol that a reader may not notice.
Spec: Delta transaction log protocol, "Actions", "Add CDC File", "Deletion Vectors", "Checkpoints", "Column Mapping".
"""

import argparse
import functools
import json
import os
import re
import select
import struct
import sys
import time
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, QueryBuilder
from pyroaring import BitMap64

import positions

KNOWN_FEATURES = {"appendOnly", "changeDataFeed", "columnMapping", "deletionVectors", "domainMetadata", "timestampNtz"}
DOMAIN = "tributary"
SHAPE = "tributary.shape"
DELETED, DELETED_AT = "_deleted", "_deleted_at"
OP, POSITION, COMMITTED_AT, SEQUENCE = "_op", "_position", "_committed_at", "_sequence"
# The least that `maintenance.retention` may be, in seconds.
RETENTION_MIN_S = 3600
Z85 = {c: i for i, c in enumerate("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")}
COLUMN_ID, PHYSICAL_NAME = "delta.columnMapping.id", "delta.columnMapping.physicalName"
MAX_ID = "delta.columnMapping.maxColumnId"
FEED, FEED_FEATURE, CHANGE_TYPE = "delta.enableChangeDataFeed", "changeDataFeed", "_change_type"
CHANGE_TYPES = {"insert", "delete", "update_preimage", "update_postimage"}
DELETION_VECTOR_MAGIC = 1681511377
PRIMITIVES = {
    "boolean": pa.bool_(), "short": pa.int16(), "integer": pa.int32(), "long": pa.int64(),
    "float": pa.float32(), "double": pa.float64(), "string": pa.large_string(), "binary": pa.large_binary(),
    "date": pa.date32(), "timestamp": pa.timestamp("us", "UTC"), "timestamp_ntz": pa.timestamp("us"),
}


def tables(lake: str) -> dict[str, Path]:
    """`schema.table` → directory, for every replicated table of the lake. Odd bytes of a name are `~`
    and two digits, in a bucket `!` and two digits."""
    found = {}
    for log in sorted(Path(lake).glob("*/*/_delta_log")):
        schema, table = (unquote(re.sub("[~!]", "%", part)) for part in log.parts[-3:-1])
        if schema != "_tributary":
            found[f"{schema}.{table}"] = log.parent
    return found


def arrow_type(delta) -> pa.DataType:
    """The Arrow type of a type in a Delta schema string."""
    if isinstance(delta, dict):
        match delta["type"]:
            case "array":
                return pa.list_(arrow_type(delta["elementType"]))
            case "map":
                return pa.map_(arrow_type(delta["keyType"]), arrow_type(delta["valueType"]))
            case "struct":
                return pa.struct([(f["name"], arrow_type(f["type"])) for f in delta["fields"]])
    if decimal := re.fullmatch(r"decimal\((\d+),(\d+)\)", delta):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    return PRIMITIVES[delta]


@dataclass
class Snapshot:
    """What the log says at one version. A file is known by (path, deletion vector)."""

    version: int = -1
    protocol: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)
    files: dict[tuple, dict] = field(default_factory=dict)
    domains: dict[str, str] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)

    def apply(self, actions: list[dict]) -> None:
        for action in actions:
            if remove := action.get("remove"):
                self.files.pop(file_key(remove), None)
        for action in actions:
            if add := action.get("add"):
                self.files[file_key(add)] = add
            if metadata := action.get("metaData"):
                self.metadata = metadata
            if protocol := action.get("protocol"):
                features = set(protocol.get("readerFeatures") or []) | set(protocol.get("writerFeatures") or [])
                assert features <= KNOWN_FEATURES, f"unexpected table features {features - KNOWN_FEATURES}"
                self.protocol = protocol
            if domain := action.get("domainMetadata"):
                self.domains[domain["domain"]] = domain["configuration"]
            if txn := action.get("txn"):
                self.transactions[txn["appId"]] = txn["version"]

    def columns(self) -> list[dict]:
        return json.loads(self.metadata["schemaString"])["fields"]

    def schema(self) -> pa.Schema:
        return pa.schema([(f["name"], arrow_type(f["type"])) for f in self.columns()])

    def logical(self, data: pa.Table, action: dict) -> pa.Table:
        """Rows of a file under the table's own columns; `action` names the file."""
        schema, partitioned = self.schema(), self.partition_columns()
        columns = []
        for name, kind in zip(self.physical_names(), schema.types):
            if name in partitioned:
                columns.append(pa.array([partition_value(action["partitionValues"][name], kind)] * len(data), kind))
            elif name in data.column_names:
                columns.append(data[name].cast(kind))
            else:
                columns.append(pa.nulls(len(data), kind))
        return pa.table(columns, schema=schema)

    def has_feed(self) -> bool:
        """Versions tell their changes row by row."""
        return FEED_FEATURE in self.protocol.get("writerFeatures", []) and self.configuration().get(FEED) == "true"

    def own_columns(self) -> list[dict]:
        """Those that the source has."""
        return [f for f in self.columns() if f["name"] not in self.metadata["partitionColumns"]]

    def partition_columns(self) -> dict[str, str]:
        """Name in `partitionValues` → name, in the order of the folders."""
        names = {f["name"]: f["metadata"][PHYSICAL_NAME] if self.is_mapped() else f["name"] for f in self.columns()}
        return {names[name]: name for name in self.metadata["partitionColumns"]}

    def configuration(self) -> dict:
        return self.metadata.get("configuration") or {}

    def is_mapped(self) -> bool:
        """Columns have names in the files that differ from their own."""
        return self.configuration().get("delta.columnMapping.mode", "none") != "none"

    def physical_names(self) -> list[str]:
        """The columns' names in the data files."""
        return [f["metadata"][PHYSICAL_NAME] if self.is_mapped() else f["name"] for f in self.columns()]

    def state(self) -> dict:
        """Tributary's own record: watermark, state, epoch, snapshot."""
        return json.loads(self.domains.get(DOMAIN, "{}"))


class Table:
    """A Delta table on local disk, or a copy of one there."""

    def __init__(self, root):
        self.root = Path(root)
        self.log = self.root / "_delta_log"
        self.commit = functools.cache(self.commit)
        self.data = functools.lru_cache(maxsize=4096)(self.data)

    def versions(self) -> list[int]:
        return sorted(int(f[:20]) for f in os.listdir(self.log) if re.fullmatch(r"\d{20}\.json", f))

    def checkpoints(self) -> list[int]:
        return sorted(int(f[:20]) for f in os.listdir(self.log) if re.fullmatch(r"\d{20}\.checkpoint\.parquet", f))

    def commit(self, version: int) -> list[dict]:
        with open(self.log / f"{version:020}.json", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def snapshot(self, version: int | None = None, use_checkpoint: bool = True) -> Snapshot:
        last = self.versions()[-1] if version is None else version
        snapshot = Snapshot()
        usable = [c for c in self.checkpoints() if c <= last] if use_checkpoint else []
        if usable:
            actions = pq.read_table(self.log / f"{usable[-1]:020}.checkpoint.parquet")
            # Its removes are tombstones for vacuum: they describe files that the adds do not list.
            wanted = [n for n in actions.column_names if n != "remove"]
            snapshot.apply(actions.select(wanted).to_pylist(maps_as_pydicts="strict"))
            snapshot.version = usable[-1]
        for number in range(snapshot.version + 1, last + 1):
            snapshot.apply(self.commit(number))
            snapshot.version = number
        return snapshot

    def read(self, version: int | None = None) -> pa.Table:
        return self.rows(self.snapshot(version))

    def rows(self, snapshot: Snapshot) -> pa.Table:
        parts = [snapshot.schema().empty_table()]
        for add in snapshot.files.values():
            data = self.data(unquote(add["path"]))
            parts.append(snapshot.logical(data.filter(self.alive(add, len(data))), add))
        return pa.concat_tables(parts)

    def alive(self, action: dict | None, rows: int) -> np.ndarray:
        """Which rows of its file an add or a remove has; none if there is no action."""
        alive = np.full(rows, action is not None)
        if action and action.get("deletionVector"):
            alive[self.deleted_rows(action["deletionVector"])] = False
        return alive

    def changes(self, snapshot: Snapshot) -> list[tuple[str, pa.Table]]:
        """What the newest version of `snapshot` has changed, by kind: its change data files, or else its adds and removes."""
        actions = self.commit(snapshot.version)
        found = []
        if cdc := [a["cdc"] for a in actions if "cdc" in a]:
            for action in cdc:
                data = self.data(unquote(action["path"]))
                for kind in pc.unique(data[CHANGE_TYPE]).to_pylist():
                    rows = data.filter(pc.equal(data[CHANGE_TYPE], kind))
                    found.append((kind, snapshot.logical(rows, action)))
            return found
        of = {kind: {a[kind]["path"]: a[kind] for a in actions if a.get(kind, {}).get("dataChange")} for kind in ("add", "remove")}
        for path in of["add"].keys() | of["remove"].keys():
            data = self.data(unquote(path))
            before, after = (self.alive(of[kind].get(path), len(data)) for kind in ("remove", "add"))
            action = of["add"].get(path) or of["remove"][path]
            found.append(("delete", snapshot.logical(data.filter(before & ~after), action)))
            found.append(("insert", snapshot.logical(data.filter(after & ~before), action)))
        return found

    def data(self, path: str) -> pa.Table:
        return pq.read_table(self.root / path, partitioning=None)

    def vector_file(self, descriptor: dict) -> Path:
        assert descriptor["storageType"] == "u", f"deletion vector storage {descriptor['storageType']}"
        name = descriptor["pathOrInlineDv"]
        prefix, identifier = name[:-20], uuid.UUID(bytes=z85_decode(name[-20:]))
        return self.root / prefix / f"deletion_vector_{identifier}.bin"

    def has_vector(self, descriptor: dict) -> bool:
        return self.vector_file(descriptor).exists()

    def deleted_rows(self, descriptor: dict) -> np.ndarray:
        with open(self.vector_file(descriptor), "rb") as file:
            assert file.read(1) == b"\x01", "deletion vector file format version"
            file.seek(descriptor["offset"])
            (size,) = struct.unpack(">I", file.read(4))
            assert size == descriptor["sizeInBytes"], "deletion vector size"
            blob = file.read(size)
            assert struct.unpack(">I", file.read(4))[0] == zlib.crc32(blob), "deletion vector checksum"
        assert struct.unpack("<I", blob[:4])[0] == DELETION_VECTOR_MAGIC, "deletion vector magic"
        rows = np.fromiter(BitMap64.deserialize(blob[4:]), dtype=np.uint64)
        assert len(rows) == descriptor["cardinality"], "deletion vector cardinality"
        return rows


def partition_value(text: str | None, kind: pa.DataType):
    """A value of a partition column. Spec: "Partition Value Serialization"."""
    if text is None or text == "":
        return None
    if pa.types.is_date(kind):
        return date.fromisoformat(text)
    if pa.types.is_integer(kind):
        return int(text)
    if pa.types.is_boolean(kind):
        return {"true": True, "false": False}[text]
    assert kind == PRIMITIVES["string"], f"partition column of type {kind}"
    return text


def murmur3(data: bytes) -> int:
    """MurmurHash3, x86, 32 bits, seed 0."""
    def mixed(word):
        word = word * 0xCC9E2D51 & 0xFFFFFFFF
        return (word << 15 | word >> 17) * 0x1B873593 & 0xFFFFFFFF

    state, whole = 0, len(data) // 4 * 4
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        state ^= mixed(word)
        state = ((state << 13 | state >> 19) & 0xFFFFFFFF) * 5 + 0xE6546B64 & 0xFFFFFFFF
    state ^= mixed(int.from_bytes(data[whole:], "little")) ^ len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    state = (state ^ state >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return state ^ state >> 16


EPOCH = datetime(1970, 1, 1)


def hashed_bytes(value) -> bytes:
    """What of a value goes into a bucket's hash. Spec: Iceberg, "Appendix B"."""
    match value:
        case int():
            return struct.pack("<q", value)
        case Decimal():
            unscaled = int(value.scaleb(-value.as_tuple().exponent))
            size = next(n for n in range(1, 17) if -(1 << 8 * n - 1) <= unscaled < 1 << 8 * n - 1)
            return unscaled.to_bytes(size, "big", signed=True)
        case datetime():
            return struct.pack("<q", (value.replace(tzinfo=None) - EPOCH) // timedelta(microseconds=1))
        case date():
            return struct.pack("<q", (value - EPOCH.date()).days)
        case str():
            return value.encode()
    return value


def derived(by, value):
    """What a row's partition column has to be, by README."""
    if value is None:
        return None
    match by:
        case "date":
            return value.date() if isinstance(value, datetime) else value
        case "hour":
            return f"{value.year:04}-{value.month:02}-{value.day:02}-{value.hour:02}"
        case "value":
            if not isinstance(value, str):
                return value
            plain = re.sub(rb"[^A-Za-z0-9_.-]", lambda odd: b"!%02X" % odd[0][0], value.encode())
            plain = re.sub(rb"^_(?=_HIVE_DEFAULT_PARTITION__$)", b"!5F", plain)
            return plain.decode() if 0 < len(value.encode()) <= 48 else None
    return (murmur3(hashed_bytes(value)) & 0x7FFFFFFF) % by["bucket"]


def partition_problems(snapshot: Snapshot, rows: pa.Table) -> list[str]:
    """Rows, as any reader sees them, whose partition columns are not what they have to be."""
    shape, problems = json.loads(snapshot.domains["tributary.shape"]), []
    partitions = shape.get("partitions", [])
    if [p["name"] for p in partitions] != snapshot.metadata["partitionColumns"]:
        problems.append(f"partitionColumns are {snapshot.metadata['partitionColumns']}")
    for own in partitions:
        [base] = [c["name"] for c in shape["columns"] if c["attribute"] == own["attribute"]]
        calculate = functools.cache(functools.partial(derived_of, json.dumps(own["by"])))
        wanted = [calculate(value) for value in rows[base].to_pylist()]
        found = rows[own["name"]].to_pylist()
        wrong = [(v, f, w) for v, f, w in zip(rows[base].to_pylist(), found, wanted) if f != w]
        if wrong:
            problems.append(f"{own['name']} is wrong in {len(wrong)} rows: (value, found, expected) {wrong[:5]}")
    return problems


def derived_of(by: str, value):
    return derived(json.loads(by), value)


def z85_decode(text: str) -> bytes:
    groups = [text[i : i + 5] for i in range(0, len(text), 5)]
    return b"".join(functools.reduce(lambda n, c: n * 85 + Z85[c], g, 0).to_bytes(4, "big") for g in groups)


def file_key(action: dict) -> tuple:
    vector = action.get("deletionVector")
    return (unquote(action["path"]), vector and (vector["storageType"], vector["pathOrInlineDv"], vector["offset"]))


def read_deltalake(root, version: int | None = None) -> pa.Table:
    builder = QueryBuilder().register("t", DeltaTable(str(root), version=version))
    return pa.table(builder.execute("select * from t").read_all())


def system_columns(snapshot: Snapshot) -> list[str]:
    """The columns of the table that its source has not."""
    return [column["name"] for column in json.loads(snapshot.domains.get(SHAPE, "{}")).get("system", [])]


def without_views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(without_views(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(without_views(field.type)) for field in kind])
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(kind, kind)


def plain(rows: pa.Table) -> pa.Table:
    """The rows without views, which pyarrow can neither filter nor sort."""
    return rows.cast(pa.schema([f.with_type(without_views(f.type)) for f in rows.schema]))


def those(rows: pa.Table, mask) -> pa.Table:
    return plain(rows).filter(mask)


def alive(rows: pa.Table, system: list[str], key: list[str]) -> pa.Table:
    """The rows that the source has, without the lake's own columns."""
    if DELETED in system:
        rows = those(rows, pc.invert(rows[DELETED]))
    if OP in system:
        rows = plain(rows).sort_by(SEQUENCE)
        keys = zip(*(rows[column].to_pylist() for column in key))
        newest = {repr(own): row for row, own in enumerate(keys)}
        rows = rows.take(sorted(newest.values()))
        rows = rows.filter(pc.not_equal(rows[OP], "d"))
    return rows.drop_columns(system)


def mapped_names(snapshot: Snapshot) -> dict[str, int]:
    """Name in the files → id, of a table with column mapping."""
    return {f["metadata"][PHYSICAL_NAME]: f["metadata"][COLUMN_ID] for f in snapshot.columns()}


def mapped_columns(snapshot: Snapshot) -> dict[int, str]:
    return {i: name for name, i in mapped_names(snapshot).items()} if snapshot.metadata and snapshot.is_mapped() else {}


def field_ids(path) -> dict[str, int]:
    schema = pq.read_schema(path)
    return {f.name: int((f.metadata or {}).get(b"PARQUET:field_id", -1)) for f in schema}


def mapping_problems(snapshot: Snapshot) -> list[str]:
    """The rules of column mapping that one version's metadata breaks."""
    if not snapshot.is_mapped():
        return []
    problems = []
    if {"columnMapping"} - set(snapshot.protocol["readerFeatures"]) or {"columnMapping"} - set(snapshot.protocol["writerFeatures"]):
        problems.append("columns are mapped, but the protocol does not say so")
    names, ids = mapped_names(snapshot), mapped_columns(snapshot)
    if not len(names) == len(ids) == len(snapshot.columns()):
        problems.append(f"physical names or ids are not unique: {names}")
    if max(ids, default=0) > int(snapshot.configuration().get(MAX_ID, 0)):
        problems.append(f"maxColumnId is less than the greatest of {ids}")
    return problems


def audit(root) -> list[str]:
    """The rules of the protocol that `root` breaks, over its whole log."""
    table = Table(root)
    snapshot, problems = Snapshot(), []
    checkpoints = set(table.checkpoints())
    versions = table.versions()
    first = versions[0]
    if versions != list(range(first, first + len(versions))):
        return [f"versions have gaps: {versions[:5]}…"]
    if first:
        # What was before has been cleaned up: a checkpoint tells it.
        if first not in checkpoints:
            return [f"the log begins at {first}, where there is no checkpoint"]
        snapshot = table.snapshot(first)
        versions = versions[1:]
    # What was removed within this time, some version may still need.
    before = time.time() - RETENTION_MIN_S
    forgotten = [v for v in versions if (table.log / f"{v:020}.json").stat().st_mtime < before]
    gone = {file_key(a["remove"]) for v in forgotten for a in table.commit(v) if "remove" in a}
    gone_paths = {path for path, _ in gone}
    for version in versions:
        actions = table.commit(version)
        others = any(not a["commitInfo"].get("engineInfo", "").startswith("tributary/") for a in actions if "commitInfo" in a)
        before = dict(snapshot.files)
        watermark, epoch = snapshot.state().get("watermark"), snapshot.state().get("epoch", 0)
        batches = dict(snapshot.transactions)

        def report(problem):
            problems.append(f"version {version}: {problem}")

        removed = {file_key(a["remove"]) for a in actions if "remove" in a}
        added = {file_key(a["add"]): a["add"] for a in actions if "add" in a}
        for path, vector in removed - before.keys():
            report(f"remove of {path} with deletion vector {vector} names no live file: it must carry the one of its add")
        alive = before.keys() - removed
        if snapshot.configuration().get("delta.appendOnly") == "true" and any(
            a["remove"]["dataChange"] for a in actions if "remove" in a
        ):
            report("rows were removed from a table that is only added to")
        for path in {p for p, _ in alive} & {p for p, _ in added}:
            report(f"{path} is added again while it is still live")
        for (path, vector), add in added.items():
            if path in gone_paths and not (table.root / path).exists():
                continue
            stats = json.loads(add.get("stats") or "{}")
            rows = pq.read_metadata(table.root / path).num_rows
            if stats.get("numRecords") != rows and not (others and not stats):
                report(f"{path} has {rows} rows, its numRecords says {stats.get('numRecords')}")
            if vector and stats.get("tightBounds") is not False:
                report(f"{path} has a deletion vector and tightBounds that are not false")
            if os.path.getsize(table.root / path) != add["size"]:
                report(f"{path} has a wrong size")
            if vector and ((path, vector) not in gone or table.has_vector(add["deletionVector"])):
                dead = table.deleted_rows(add["deletionVector"])
                if len(dead) and dead.max() >= rows:
                    report(f"{path} has a deletion vector past its last row")
                if len(dead) == rows:
                    report(f"{path} is kept with all rows deleted")
        fed = snapshot.has_feed()
        ids_before, replaced = mapped_columns(snapshot), not alive
        was_mapped, id_before = snapshot.is_mapped(), int(snapshot.configuration().get(MAX_ID, 0))
        snapshot.apply(actions)
        for problem in mapping_problems(snapshot):
            report(problem)
        for remove in (a["remove"] for a in actions if "remove" in a):
            add = before.get(file_key(remove))
            if add and remove.get("partitionValues") != add["partitionValues"]:
                report(f"the remove of {remove['path']} has other partition values than its add")
        for (path, _), add in added.items():
            names = snapshot.partition_columns().keys()
            if add["partitionValues"].keys() != names:
                report(f"{path} has the partition values {add['partitionValues']}")
            # Polars takes the values from there.
            folders = [folder.split("=")[0] for folder in path.split("/")[:-1]]
            if not others and folders != list(names):
                report(f"{path} is in other folders than those of {list(names)}")
            if names and (table.root / path).exists() and names & set(pq.read_schema(table.root / path).names):
                report(f"{path} has partition columns in the file")
        if was_mapped and not replaced:
            ids = mapped_columns(snapshot)
            if not snapshot.is_mapped():
                report("column mapping is switched off while files need it")
            if int(snapshot.configuration().get(MAX_ID, 0)) < id_before:
                report("maxColumnId went back")
            for column in ids.keys() & ids_before.keys():
                if ids[column] != ids_before[column]:
                    report(f"column {column} was {ids_before[column]} in the files, is {ids[column]}")
            for column in ids.keys() - ids_before.keys():
                if column <= id_before:
                    report(f"the id {column} of a new column was used before")
        # What was staged before the commit that begins to map is found by name.
        if was_mapped:
            for path in {p for p, _ in added} - {p for p, _ in before}:
                if path in gone_paths and not (table.root / path).exists():
                    continue
                found = field_ids(table.root / path)
                if wrong := {n: i for n, i in mapped_names(snapshot).items() if n in found and found[n] != i}:
                    report(f"{path} lacks the field ids {wrong}")
        changes = any(a.get(kind, {}).get("dataChange") for a in actions for kind in ("add", "remove"))
        for cdc in (a["cdc"] for a in actions if "cdc" in a):
            path = table.root / unquote(cdc["path"])
            if not (fed or snapshot.has_feed()) or not changes or cdc["dataChange"]:
                report(f"{path.name} tells changes that the version does not have, or none are to be told")
            if version in forgotten and not path.exists():
                continue
            told = pq.read_table(path, partitioning=None)
            if os.path.getsize(path) != cdc["size"]:
                report(f"{path.name} has a wrong size")
            if set(told[CHANGE_TYPE].to_pylist()) - CHANGE_TYPES or not len(told):
                report(f"{path.name} has no changes, or of an unknown kind")
            partitioned = snapshot.partition_columns()
            if set(cdc["partitionValues"]) != set(partitioned):
                report(f"{path.name} has the partition {cdc['partitionValues']}")
            if told.column_names != [n for n in snapshot.physical_names() if n not in partitioned] + [CHANGE_TYPE]:
                report(f"{path.name} has the columns {told.column_names}")
        if (added or removed) and version > 0 and not others:
            if not any(a.get("domainMetadata", {}).get("domain") == DOMAIN for a in actions):
                report("data without a watermark")
            if changes and not any("txn" in a for a in actions):
                report("data without a txn action")
        for app, batch in snapshot.transactions.items():
            if batch < batches.get(app, batch):
                report(f"txn version of {app} went back from {batches[app]} to {batch}")
        state = snapshot.state()
        # Other content may be that of a source restored from a backup.
        if watermark and alive and not positions.parse(state["watermark"]).covers(positions.parse(watermark)):
            report(f"watermark went back from {watermark} to {state['watermark']}")
        if state and state["epoch"] < epoch:
            report(f"epoch went back from {epoch} to {state['epoch']}")
        if version in checkpoints:
            kept = table.snapshot(version)
            for name in ("files", "domains", "transactions"):
                if getattr(kept, name).keys() != getattr(snapshot, name).keys():
                    report(f"the checkpoint's {name} differ from the log's")
            values = [{key: add["partitionValues"] for key, add in s.files.items()} for s in (kept, snapshot)]
            if values[0] != values[1]:
                report("the checkpoint's partition values differ from the log's")
            if kept.domains != snapshot.domains or kept.transactions != snapshot.transactions:
                report("the checkpoint's state differs from the log's")
    return problems


def query(root, sql: str, version: int | None = None) -> list[list]:
    builder = QueryBuilder().register("t", DeltaTable(str(root), version=version))
    return [list(row.values()) for row in pa.table(builder.execute(sql).read_all()).to_pylist()]


def follow(root, sql: str) -> None:
    """Prints `[version, rows]` for each version, as a reader that polls the table sees it."""
    log = Table(root)
    version, ended = log.versions()[-1], False
    while True:
        while version <= log.versions()[-1]:
            print(json.dumps([version, query(root, sql, version)], default=str), flush=True)
            version += 1
        if ended:
            return
        readable, _, _ = select.select([sys.stdin], [], [], 0.02)
        ended = bool(readable) and not sys.stdin.read(1)


def leave(right: bool) -> None:
    """Ends the program; deltalake's threads now and then abort an orderly exit, when all is said."""
    sys.stdout.flush()
    os._exit(not right)


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("audit", help="checks the logs of tables against the protocol")
    command.add_argument("table", nargs="+")
    command = commands.add_parser("query", help="prints the rows of an SQL query over `t`")
    command.add_argument("table")
    command.add_argument("sql")
    command.add_argument("--version", type=int)
    command = commands.add_parser("follow", help="prints them for each version, from the newest on, until standard input ends")
    command.add_argument("table")
    command.add_argument("sql")
    arguments = parser.parse_args()
    if arguments.command == "query":
        for row in query(arguments.table, arguments.sql, arguments.version):
            print(row)
        return True
    if arguments.command == "follow":
        follow(arguments.table, arguments.sql)
        return True
    problems = [f"{root}: {problem}" for root in arguments.table for problem in audit(root)]
    print("".join(f"{p}\n" for p in problems), end="")
    return not problems


if __name__ == "__main__":
    leave(main())
