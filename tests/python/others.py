"""Another program's commits to a table of the lake, written by hand: nothing of Tributary or of a Delta library.

`append` adds rows, `delete` removes some by a new deletion vector, `drop-file` removes a file, `optimize` makes one file
of all, `property` sets a table property, `unknown-feature` turns on a writer feature. Each is one commit on top of the newest version; one that loses its
version to another writer starts over. Prints the version.
"""

import argparse
import json
import os
import struct
import time
import uuid
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

import lake

MAGIC = lake.DELETION_VECTOR_MAGIC
Z85 = {number: letter for letter, number in lake.Z85.items()}


def z85_encode(raw: bytes) -> str:
    text = ""
    for (word,) in struct.iter_unpack(">I", raw):
        digits = []
        for _ in range(5):
            word, digit = divmod(word, 85)
            digits.append(Z85[digit])
        text += "".join(reversed(digits))
    return text


def write_vector(table: lake.Table, rows) -> dict:
    name = uuid.uuid4()
    blob = struct.pack("<I", MAGIC) + BitMap64(rows).serialize()
    with open(table.root / f"deletion_vector_{name}.bin", "wb") as file:
        file.write(b"\x01" + struct.pack(">I", len(blob)) + blob + struct.pack(">I", zlib.crc32(blob)))
    return {
        "storageType": "u", "pathOrInlineDv": z85_encode(name.bytes), "offset": 1, "sizeInBytes": len(blob),
        "cardinality": len(rows),
    }


def write_file(table: lake.Table, snapshot: lake.Snapshot, rows: pa.Table, data_change: bool) -> dict:
    rows = rows.rename_columns(snapshot.physical_names())
    path = f"other-{uuid.uuid4()}.parquet"
    pq.write_table(rows, table.root / path)
    return {"add": {
        "path": path, "partitionValues": {}, "size": os.path.getsize(table.root / path),
        "modificationTime": int(time.time() * 1000), "dataChange": data_change,
        "stats": json.dumps({"numRecords": len(rows)}),
    }}


def remove(add: dict, data_change: bool) -> dict:
    action = {
        "path": add["path"], "deletionTimestamp": int(time.time() * 1000), "dataChange": data_change,
        "extendedFileMetadata": True, "partitionValues": {}, "size": add["size"],
    }
    if vector := add.get("deletionVector"):
        action["deletionVector"] = vector
    return {"remove": action}


def live_rows(table: lake.Table, add: dict) -> np.ndarray:
    alive = np.ones(pq.read_metadata(table.root / add["path"]).num_rows, dtype=bool)
    if vector := add.get("deletionVector"):
        alive[table.deleted_rows(vector)] = False
    return np.flatnonzero(alive)


def actions(table: lake.Table, snapshot: lake.Snapshot, arguments) -> list[dict]:
    adds = sorted(snapshot.files.values(), key=lambda add: add["path"])
    match arguments.what:
        case "append":
            schema = pa.schema([(f["name"], lake.arrow_type(f["type"])) for f in snapshot.columns()])
            rows = pa.Table.from_pylist([json.loads(row) for row in arguments.row], schema=schema)
            return [write_file(table, snapshot, rows, True)]
        case "delete":
            add = max(adds, key=lambda add: len(live_rows(table, add)))
            dead = set(range(pq.read_metadata(table.root / add["path"]).num_rows)) - set(live_rows(table, add).tolist())
            dead |= set(live_rows(table, add)[::3].tolist())
            stats = json.loads(add["stats"]) | {"tightBounds": False}
            changed = add | {"deletionVector": write_vector(table, dead), "stats": json.dumps(stats), "dataChange": True}
            return [remove(add, True), {"add": changed}]
        case "drop-file":
            return [remove(max(adds, key=lambda add: len(live_rows(table, add))), True)]
        case "optimize":
            rows = table.read(snapshot.version)
            return [remove(add, False) for add in adds] + [write_file(table, snapshot, rows, False)]
        case "property":
            name, value = arguments.row[0].split("=")
            metadata = snapshot.metadata | {"configuration": snapshot.configuration() | {name: value}}
            return [{"metaData": metadata}]
        case "unknown-feature":
            features = snapshot.protocol["writerFeatures"] + [arguments.row[0]]
            return [{"protocol": snapshot.protocol | {"writerFeatures": features}}]


def commit(table: lake.Table, version: int, entry: list[dict]) -> bool:
    info = {"commitInfo": {"timestamp": int(time.time() * 1000), "operation": "OTHER", "engineInfo": "tests"}}
    whole = table.log / f".{uuid.uuid4()}"
    with open(whole, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(action) + "\n" for action in [info, *entry])
    try:
        # As put-if-absent does it: fails where the version is there.
        os.link(whole, table.log / f"{version:020}.json")
        return True
    except FileExistsError:
        return False
    finally:
        os.unlink(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["append", "delete", "drop-file", "optimize", "property", "unknown-feature"])
    parser.add_argument("table")
    parser.add_argument("row", nargs="*", help="append: rows as JSON; property: name=value; unknown-feature: its name")
    arguments = parser.parse_args()
    while True:
        table = lake.Table(arguments.table)
        snapshot = table.snapshot()
        if commit(table, snapshot.version + 1, actions(table, snapshot, arguments)):
            print(snapshot.version + 1)
            return


if __name__ == "__main__":
    main()
    lake.leave(True)
