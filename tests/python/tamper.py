"""Makes a lake table wrong, by a commit as a broken writer would make it.

    tamper.py TABLE flip KEY COLUMN [BIT]   one bit of one value (of its last byte; BIT 0 is the lowest)
    tamper.py TABLE flip-all                one bit in every column but the first, in one row each, where there is a bit
    tamper.py TABLE set KEY COLUMN VALUE    another value, as JSON
    tamper.py TABLE set-all COLUMN VALUE    the same value in all rows
    tamper.py TABLE drop KEY...             rows marked as deleted
    tamper.py TABLE add KEY NEW...          copies of a row under other keys, each in a file of its own
    tamper.py TABLE state STATE REASON      only Tributary's record

A KEY is a JSON object, such as {"id": 7}. Nothing else may write to the table meanwhile.
"""

import json
import os
import struct
import sys
import time
import uuid
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from lake import DELETION_VECTOR_MAGIC, DOMAIN, Z85, Table


class Tampering:
    def __init__(self, root):
        self.root = Path(root)
        self.table = Table(root)
        self.snapshot = self.table.snapshot()
        self.actions = []

    def find(self, key):
        """The live row of a key: its `add`, the file's rows, its number."""
        for add in self.snapshot.files.values():
            rows = self.table.data(add["path"])
            dead = set(self.dead(add))
            columns = [rows[name].to_pylist() for name in key]
            for number, values in enumerate(zip(*columns)):
                if number not in dead and list(values) == list(key.values()):
                    return add, rows, number
        sys.exit(f"no row {key}")

    def dead(self, add):
        vector = add.get("deletionVector")
        return self.table.deleted_rows(vector).tolist() if vector else []

    def write(self, rows):
        path = f"part-{uuid.uuid4()}.snappy.parquet"
        pq.write_table(rows, self.root / path)
        return path

    def remove(self, add):
        vector = {"deletionVector": add["deletionVector"]} if add.get("deletionVector") else {}
        removal = {"deletionTimestamp": now(), "dataChange": True, "extendedFileMetadata": True, "partitionValues": {}}
        self.actions.append({"remove": {"path": add["path"], "size": add["size"], **removal, **vector}})

    def add(self, path, count, vector=None):
        stats = {"numRecords": count} | ({"tightBounds": False} if vector else {})
        size = os.path.getsize(self.root / path)
        add = {"path": path, "partitionValues": {}, "size": size, "modificationTime": now(), "dataChange": True, "stats": json.dumps(stats)}
        self.actions.append({"add": add | ({"deletionVector": vector} if vector else {})})

    def replace(self, add, rows):
        self.remove(add)
        self.add(self.write(rows), len(rows), add.get("deletionVector"))

    def grow(self, add, numbers, count):
        dead = BitMap64([*self.dead(add), *numbers])
        blob = struct.pack("<I", DELETION_VECTOR_MAGIC) + dead.serialize()
        identifier = uuid.uuid4()
        with open(self.root / f"deletion_vector_{identifier}.bin", "xb") as file:
            file.write(b"\x01" + struct.pack(">I", len(blob)) + blob + struct.pack(">I", zlib.crc32(blob)))
        self.remove(add)
        name = z85_encode(identifier.bytes)
        self.add(add["path"], count, {"storageType": "u", "pathOrInlineDv": name, "offset": 1, "sizeInBytes": len(blob), "cardinality": len(dead)})

    def commit(self, **changes):
        record = self.snapshot.state() | changes
        txn = self.snapshot.transactions.get(record["pipeline"], 0) + 1
        info = {"commitInfo": {"timestamp": now(), "operation": "TAMPER", "operationParameters": {}}}
        self.actions.append({"txn": {"appId": record["pipeline"], "version": txn, "lastUpdated": now()}})
        self.actions.append({"domainMetadata": {"domain": DOMAIN, "configuration": json.dumps(record), "removed": False}})
        version = self.snapshot.version + 1
        with open(self.root / "_delta_log" / f"{version:020}.json", "x") as file:
            file.writelines(json.dumps(action) + "\n" for action in [info, *self.actions])


def now():
    return int(time.time() * 1000)


def z85_encode(data):
    digits = {value: digit for digit, value in Z85.items()}
    out = ""
    for (word,) in struct.iter_unpack(">I", data):
        out += "".join(digits[word // 85**place % 85] for place in (4, 3, 2, 1, 0))
    return out


def with_bit_flipped(array, row, bit):
    """The array with one bit of one value flipped: in its last byte, or in the last value inside it."""
    array = pa.concat_arrays([array])  # Offset 0.
    kind = array.type
    if pa.types.is_struct(kind):
        fields = [array.field(i) for i in range(kind.num_fields)]
        last = max(i for i, field in enumerate(fields) if has_bits(field, row))
        fields[last] = with_bit_flipped(fields[last], row, bit)
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())
    buffers = [None if b is None else pa.py_buffer(bytearray(b.to_pybytes())) for b in array.buffers()]
    if pa.types.is_list(kind) or pa.types.is_map(kind):
        values = array.values if pa.types.is_list(kind) else array.items
        first, end = (array.offsets[i].as_py() for i in (row, row + 1))
        inside = max(i for i in range(first, end) if has_bits(values, i))
        values = with_bit_flipped(values, inside, bit)
        if pa.types.is_list(kind):
            return pa.ListArray.from_arrays(array.offsets, values, type=kind, mask=array.is_null())
        return pa.MapArray.from_arrays(array.offsets, array.keys, values, type=kind, mask=array.is_null())
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        data, end = 2, struct.unpack_from("<i", buffers[1], 4 * row + 4)[0]
        place = 8 * (end - 1) + bit
    elif pa.types.is_boolean(kind):
        data, place = 1, row
    else:
        width = kind.bit_width // 8
        # The lowest byte comes first: "last" is where the sign is only for the highest bit.
        data, place = 1, 8 * width * row + (bit if bit < 7 else 8 * width - 1)
    changed = bytearray(buffers[data].to_pybytes())
    changed[place // 8] ^= 1 << place % 8
    buffers[data] = pa.py_buffer(changed)
    return pa.Array.from_buffers(kind, len(array), buffers)


def has_bits(array, row):
    value = array[row]
    if not value.is_valid:
        return False
    kind = array.type
    if pa.types.is_struct(kind):
        return any(has_bits(array.field(i), row) for i in range(kind.num_fields))
    if pa.types.is_list(kind):
        return any(has_bits(value.values, i) for i in range(len(value.values)))
    if pa.types.is_map(kind):
        return any(item is not None for _, item in value.as_py())
    return not (pa.types.is_string(kind) or pa.types.is_binary(kind)) or len(value.as_py()) > 0


def with_column(rows, name, array):
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(place), array)


def main():
    root, verb, *arguments = sys.argv[1:]
    tampering = Tampering(root)
    changes = {}
    match verb, arguments:
        case "flip", [key, column, *bit]:
            add, rows, number = tampering.find(json.loads(key))
            array = with_bit_flipped(rows[column].combine_chunks(), number, int(bit[0]) if bit else 0)
            tampering.replace(add, with_column(rows, column, array))
        case "flip-all", []:
            (add,) = tampering.snapshot.files.values()
            rows = tampering.table.data(add["path"])
            flipped = []
            for name in rows.column_names[1:]:
                array = rows[name].combine_chunks()
                number = next((i for i in range(len(array)) if has_bits(array, i)), None)
                if number is not None:
                    rows = with_column(rows, name, with_bit_flipped(array, number, 0))
                    flipped.append(name)
            print(json.dumps(flipped))
            tampering.replace(add, rows)
        case "set", [key, column, value]:
            add, rows, number = tampering.find(json.loads(key))
            values = rows[column].to_pylist()
            values[number] = json.loads(value)
            tampering.replace(add, with_column(rows, column, pa.array(values, rows.schema.field(column).type)))
        case "set-all", [column, value]:
            for add in tampering.snapshot.files.values():
                rows = tampering.table.data(add["path"])
                values = [json.loads(value)] * len(rows)
                tampering.replace(add, with_column(rows, column, pa.array(values, rows.schema.field(column).type)))
        case "drop", keys:
            found = [tampering.find(json.loads(key)) for key in keys]
            for path in {add["path"] for add, _, _ in found}:
                here = [(add, len(rows), number) for add, rows, number in found if add["path"] == path]
                tampering.grow(here[0][0], [number for _, _, number in here], here[0][1])
        case "add", [key, *others]:
            _, rows, number = tampering.find(json.loads(key))
            for other in others:
                row = rows.slice(number, 1)
                for name, value in json.loads(other).items():
                    row = with_column(row, name, pa.array([value], row.schema.field(name).type))
                tampering.add(tampering.write(row), 1)
        case "state", [state, reason]:
            changes = {"state": state, "reason": reason}
        case _:
            sys.exit(__doc__)
    tampering.commit(**changes)


if __name__ == "__main__":
    main()
