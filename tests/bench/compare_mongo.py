"""Compares the benchmarks' collection in MongoDB with its Delta table: documents counted, and a checksum of all of them.

    compare_mongo.py URL COLLECTION DELTA_TABLE      exits with 1 if they differ
"""

import hashlib
import sys

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from deltalake import DeltaTable, QueryBuilder

# A document as one text, as `text` makes it; nothing of these documents is left over for `_extra`.
LAKE = """concat_ws('|', _id, customer, price, cast(placed_at as bigint), state, coalesce(note, '~'), attributes['k'], attributes['tag'],
    revision, coalesce(_extra, '~'))"""


def text(d):
    values = [d["_id"], d["customer"], d["price"], int(d["placed_at"]) * 1000, d["state"], d.get("note", "~")]
    return "|".join(map(str, [*values, d["attributes"]["k"], d["attributes"]["tag"], d["revision"], "~"]))


def summary(texts):
    count = total = 0
    for value in texts:
        count += 1
        total += int(hashlib.sha256(value.encode()).hexdigest()[:14], 16)
    return count, total


def source_texts(url, name):
    options = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
    return map(text, pymongo.MongoClient(url)["bench"].get_collection(name, options).find())


def lake_texts(delta):
    for batch in QueryBuilder().register("t", DeltaTable(delta)).execute(f"SELECT {LAKE} AS r FROM t"):
        yield from batch.column(0).to_pylist()


def main():
    url, name, delta = sys.argv[1:]
    source, lake = summary(source_texts(url, name)), summary(lake_texts(delta))
    print(f"{name}: source {source}, lake {lake}", "equal" if source == lake else "DIFFERENT")
    sys.exit(source != lake)


main()
