"""Random documents with every type of BSON, and random changes of them by every operator: all from one seed."""

import datetime
import random
import uuid

from bson import DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from pymongo import DeleteMany, DeleteOne, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

INTS = [0, 1, -1, 2**31 - 1, -(2**31)]
LONGS = [Int64(0), Int64(7), Int64(2**63 - 1), Int64(-(2**63)), Int64(2**53), Int64(2**53 + 1), Int64(-(2**53) - 1)]
DOUBLES = [0.0, -0.0, 1.0, 0.1, 1e300, 5e-324, 2.0**53, 2.0**54, -1.5, float("nan"), float("inf"), float("-inf")]
DECIMALS = [
    "0", "-0", "0.00", "-0E+3", "1", "1.0", "1.20", "1.2", "12345678901234567890123456789012.34", "NaN", "Infinity",
    "-Infinity", "9.999999999999999999999999999999999E+6144", "1E-6176", "1E+40", "-123.456",
]  # fmt: skip
DATES = [
    0, 1, -1, 951_782_400_123, -62_135_596_800_000, -62_135_596_800_001, 253_402_300_799_999, 253_402_300_800_000,
    2**63 - 1, -(2**63), (2**63 - 1) // 1000, (2**63 - 1) // 1000 + 1, -(2**63) // 1000, -(2**63) // 1000 - 1,
]  # fmt: skip
TEXTS = ["", "a", "ab", "Żółć", "😀", "\x00", "a\x00b", "line\nline\ttab", "\"'\\", " lead", "2024-01-01", "a.b", "$a", "\u2028", "\U0010ffff"]
REGULAR = {
    "name": lambda r: r.choice(TEXTS) + str(r.randrange(1000)),
    "count": lambda r: r.randrange(10**6),
    "total": lambda r: Int64(r.randrange(10**12)),
    "price": lambda r: Decimal128(f"{r.randrange(10**6)}.{r.randrange(100):02}"),
    "ratio": lambda r: r.random(),
    "when": lambda r: DatetimeMS(r.randrange(2 * 10**12)),
    "done": lambda r: r.random() < 0.5,
    "owner": lambda r: object_id(r),
    "token": lambda r: uuid.UUID(int=r.getrandbits(128)),
    "blob": lambda r: r.randbytes(r.randrange(40)),
    "tags": lambda r: [r.choice(TEXTS) for _ in range(r.randrange(5))],
    "scores": lambda r: [r.randrange(100) for _ in range(r.randrange(6))],
    "address": lambda r: {"street": r.choice(TEXTS), "no": r.randrange(99), "geo": {"x": r.random(), "y": r.random()}},
    "lines": lambda r: [{"sku": f"s{r.randrange(20)}", "n": r.randrange(9)} for _ in range(r.randrange(4))],
}
ODD_NAMES = [" ", "a b", "naïve", "😀", "𐐷 x", "A", "a", "_extra", "select", "0", "x-y", "Name", "_ID", "é", "e\u0301", "\"q\"", "back\\slash"]
MIXED = [f"m{i}" for i in range(8)]
INNER = ["x", "y", "0", "1", "in ner", "X", "ü"]


def object_id(r) -> ObjectId:
    return ObjectId(r.randbytes(12))


SCALARS = [
    lambda r: r.choice(INTS), lambda r: r.choice(LONGS), lambda r: r.choice(DOUBLES), lambda r: r.choice(TEXTS),
    lambda r: Decimal128(r.choice(DECIMALS)), lambda r: DatetimeMS(r.choice(DATES)), lambda r: r.random() < 0.5,
    lambda r: None, object_id, lambda r: Timestamp(r.getrandbits(32), r.getrandbits(32)),
    lambda r: Binary(r.randbytes(r.randrange(30)), r.choice([0, 2, 5, 128, 255])),
    lambda r: Binary(r.randbytes(16), r.choice([3, 4])),
    lambda r: Regex(r.choice(["^a.*", "", "/", "\\d+\"", "Ż"]), r.choice(["", "i", "imsx", "u"])),
    lambda r: Code(r.choice(["", "function() { return 1; }", "\"q\""])),
    lambda r: Code("f(x)", {"x": r.choice(INTS), "deep": {"y": r.choice(TEXTS)}}),
    lambda r: DBRef("other", object_id(r)), lambda r: DBRef("other", 5, "db"), lambda r: MinKey(), lambda r: MaxKey(),
    lambda r: r.choice(TEXTS) * r.randrange(1, 200), lambda r: uuid.UUID(int=r.getrandbits(128)),
]  # fmt: skip


def scalar(r):
    return r.choice(SCALARS)(r)


def value(r, depth=3):
    if depth and r.random() < 0.3:
        if r.random() < 0.5:
            return {name: value(r, depth - 1) for name in r.sample(INNER, r.randrange(4))}
        return [value(r, depth - 1) for _ in range(r.randrange(4))]
    return scalar(r)


def deep(r, levels=80):
    found = scalar(r)
    for i in range(levels):
        found = [found] if i % 5 == 0 else {r.choice(INNER): found}
    return found


def every_type() -> dict:
    """A document with each of the edge values in a field of its own."""
    r = random.Random(1)
    groups = {
        "int": INTS, "long": LONGS, "double": DOUBLES, "text": TEXTS, "decimal": map(Decimal128, DECIMALS),
        "date": map(DatetimeMS, DATES), "binary": [Binary(b"abc", s) for s in (0, 2, 5, 6, 128, 255)] + [Binary(b"", 0)],
        "uuid": [Binary(bytes(range(16)), 3), Binary(bytes(range(16)), 4), Binary(b"short", 4)], "bool": [True, False],
        "other": [None, MinKey(), MaxKey(), Timestamp(0, 0), Timestamp(2**32 - 1, 2**32 - 1), ObjectId(b"\0" * 12), Regex("a/b", "imsx")],
        "code": [Code("x"), Code("x", {}), Code("x", {"a": {"b": Int64(1)}})], "ref": [DBRef("c", 1), DBRef("c", "x", "d")],
        "nested": [{}, [], [[]], [{}], {"": 1}, {"a": None}, [None, [None]], deep(r, 95)],
    }  # fmt: skip
    return {f"{group}_{i}": v for group, values in groups.items() for i, v in enumerate(values)}


IDS = {
    "objectId": lambda r, i: ObjectId(i.to_bytes(12)),
    "int": lambda r, i: [i, Int64(i + 2**40), float(i) + 2**45][i % 3],
    "string": lambda r, i: f"{TEXTS[i % len(TEXTS)]}{i}",
    "uuid": lambda r, i: uuid.UUID(int=i << 90 | i),
    "compound": lambda r, i: {"tenant": TEXTS[i % 7], "no": [i, Int64(i), {"part": i}][i % 3]},
}


def mixed_id(r, i):
    match i % 13:
        case 5:
            return [None, MinKey(), MaxKey(), True, False, "", {}, float("nan"), float("-inf")][i // 13 % 9]
        case 6:
            return Decimal128(f"{i}.50")
        case 7:
            return i + 0.25
        case 8:
            return Binary(i.to_bytes(5), 128)
        case 9:
            return DatetimeMS(i)
        case 10:
            return Timestamp(i, 1)
        case 11:
            return {"b": i, "a": {"c": Decimal128(str(i))}}
        case 12:
            return -i
    return IDS[list(IDS)[i % 5]](r, i)


IDS["mixed"] = mixed_id


class Documents:
    """A collection's documents. `ids` is a name of IDS."""

    def __init__(self, seed, ids):
        self.random, self.make_id, self.fresh, self.known = random.Random(seed), IDS[ids], 0, []

    def new_id(self):
        """Mostly one never used."""
        if self.known and self.random.random() < 0.15:
            return self.random.choice(self.known)
        self.fresh += 1
        self.known.append(self.make_id(self.random, self.fresh))
        return self.known[-1]

    def some_id(self):
        return self.random.choice(self.known[-300:])

    def fields(self) -> dict:
        r = self.random
        found = {name: make(r) for name, make in REGULAR.items() if r.random() < 0.8}
        found |= {name: value(r) for name in r.sample(MIXED, r.randrange(5))}
        found |= {name: value(r, 2) for name in r.sample(ODD_NAMES, r.choice([0, 0, 1, 3]))}
        if r.random() < 0.1:
            # A regular field of another type.
            found[r.choice(list(REGULAR))] = value(r)
        if r.random() < 0.03:
            found["deep"] = deep(r)
        items = list(found.items())
        r.shuffle(items)
        return dict(items)

    def document(self) -> dict:
        return {"_id": self.new_id()} | self.fields()

    def path(self) -> str:
        r = self.random
        match r.randrange(7):
            case 0:
                return r.choice(list(REGULAR))
            case 1:
                return r.choice(MIXED)
            case 2:
                return r.choice(ODD_NAMES)
            case 3:
                return f"{r.choice(MIXED)}.{r.choice(INNER)}"
            case 4:
                return f"{r.choice(MIXED)}.{r.choice(INNER)}.{r.choice(INNER)}"
            case 5:
                return f"{r.choice(['tags', 'scores', 'lines'])}.{r.randrange(6)}"
        return r.choice(["address.street", "address.geo.x", "address.geo", "address.new", "lines.0.n", "lines.1.more.x"])

    def paths(self, most) -> list[str]:
        """Paths of which none lies in another, or MongoDB refuses them."""
        found = []
        for _ in range(self.random.randint(1, most)):
            path = self.path()
            if not any(f"{path}.".startswith(f"{p}.") or f"{p}.".startswith(f"{path}.") for p in found):
                found.append(path)
        return found

    def update(self):
        """An update document or pipeline, and the array filters it needs."""
        r = self.random
        number = r.choice([1, -3, 2.5, Int64(2**40), Decimal128("0.10")])
        match r.randrange(26):
            case 0 | 1 | 2:
                return {"$set": {path: value(r) for path in self.paths(4)}}, None
            case 3:
                return {"$set": {name: make(r) for name, make in r.sample(list(REGULAR.items()), 3)}}, None
            case 4:
                return {"$unset": {path: "" for path in self.paths(3)}}, None
            case 5:
                return {"$inc": {r.choice(["count", "total", "price", "ratio", "address.no", "scores.0"]): number}}, None
            case 6:
                return {"$mul": {r.choice(["count", "ratio", "price", "scores.1"]): r.choice([2, 0.5, Int64(1), -1])}}, None
            case 7:
                return {r.choice(["$min", "$max"]): {self.path(): scalar(r)}}, None
            case 8:
                one, two = r.sample([*MIXED, *ODD_NAMES, "name", "count", "address"], 2)
                return {"$rename": {one: two}}, None
            case 9:
                return {"$rename": {"address.street": "address.road", f"{r.choice(MIXED)}.x": f"moved.{r.choice(INNER)}"}}, None
            case 10:
                return {"$push": {r.choice(["tags", "scores", r.choice(MIXED)]): value(r, 1)}}, None
            case 11:
                each = {"$each": [r.randrange(100) for _ in range(r.randrange(4))]}
                each |= r.choice([{}, {"$slice": -5}, {"$slice": 3, "$sort": -1}, {"$position": 0}, {"$position": 2, "$slice": 8}, {"$slice": 0}])
                return {"$push": {"scores": each}}, None
            case 12:
                lines = [{"sku": f"s{r.randrange(20)}", "n": r.randrange(9)} for _ in range(2)]
                return {"$push": {"lines": {"$each": lines, "$sort": {"n": 1}, "$slice": 6}}}, None
            case 13:
                return {"$addToSet": {"tags": {"$each": r.sample(TEXTS, 2)}}}, None
            case 14:
                return {"$pop": {r.choice(["tags", "scores", "lines"]): r.choice([1, -1])}}, None
            case 15:
                return {"$pull": r.choice([{"scores": {"$gte": 50}}, {"lines": {"n": {"$lt": 4}}}, {"tags": ""}])}, None
            case 16:
                return {"$pullAll": {"tags": r.sample(TEXTS, 3)}}, None
            case 17:
                return {"$bit": {"count": {r.choice(["and", "or", "xor"]): r.randrange(1000)}}}, None
            case 18:
                return {"$currentDate": {"when": True, f"{r.choice(MIXED)}": {"$type": "timestamp"}}}, None
            case 19:
                return {"$inc": {"scores.$[]": 1}, "$set": {"lines.$[].n": r.randrange(9)}}, None
            case 20:
                return {"$set": {"lines.$[few].n": 100, "lines.$[few].why": value(r, 1)}}, [{"few.n": {"$lt": 5}}]
            case 21:
                return [{"$set": {r.choice(MIXED): {"$concatArrays": [{"$ifNull": ["$no", []]}, [1, "$count"]]}, "sum": "$count"}}], None
            case 22:
                return [{"$set": {r.choice([*MIXED, "name"]): "$$REMOVE"}}, {"$unset": [r.choice(MIXED), "address.geo.y"]}], None
            case 23:
                return [{"$replaceWith": {"$mergeObjects": [{"_id": "$_id", "count": "$count"}, {"made": {"$literal": value(r, 1)}}, "$address"]}}], None
            case 24:
                return [{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"lines": {"$slice": [{"$ifNull": ["$scores", []]}, 2]}}]}}], None
        return {"$set": {"count": 1, "address.no": 2, "fresh": value(r)}, "$unset": {"ratio": ""}, "$push": {"tags": "pushed"}}, None

    def change(self, collection, session=None):
        """One change of the collection. What the server refuses of it is not there."""
        r, key = self.random, {"_id": self.some_id()}
        match r.randrange(20):
            case 0 | 1 | 2:
                collection.insert_one(self.document(), session=session)
            case 3:
                try:
                    collection.insert_many([self.document() for _ in range(r.randint(2, 12))], ordered=r.random() < 0.5, session=session)
                except BulkWriteError:
                    if session:
                        raise
            case 4 | 5:
                collection.replace_one(key, self.fields(), upsert=r.random() < 0.3, session=session)
            case 6 | 7:
                collection.delete_one({"_id": r.choice(self.known)}, session=session)
            case 8:
                collection.delete_many({"count": {"$lt": r.randrange(20_000)}}, session=session)
            case 9:
                update, filters = self.update()
                collection.update_many({"count": {"$gte": 900_000}}, update, array_filters=filters, session=session)
            case 10:
                operators = {"$setOnInsert": {"born": value(r)}, "$inc": {"times": 1}}
                collection.update_one({"_id": self.new_id()}, operators, upsert=True, session=session)
            case 11:
                collection.find_one_and_update(key, {"$set": {self.path(): value(r)}}, session=session)
            case 12:
                if r.random() < 0.5:
                    collection.find_one_and_replace(key, self.fields(), session=session)
                else:
                    collection.find_one_and_delete(key, session=session)
            case 13:
                line = {"scores": {"$gte": 10}}
                collection.update_one(key | line, {"$set": {"scores.$": -1}}, session=session)
            case 14:
                update, filters = self.update()
                requests = [
                    InsertOne(self.document()), UpdateOne(key, update, array_filters=filters), ReplaceOne({"_id": self.some_id()}, self.fields()),
                    DeleteOne({"_id": self.some_id()}), UpdateMany({"count": {"$lt": 50_000}}, {"$inc": {"times": 1}}), DeleteMany({"times": {"$gt": 5}}),
                ]  # fmt: skip
                r.shuffle(requests)
                try:
                    collection.bulk_write(requests, ordered=r.random() < 0.5, session=session)
                except BulkWriteError:
                    if session:
                        raise
            case _:
                update, filters = self.update()
                collection.update_one(key, update, array_filters=filters, session=session)


REFUSED = (OperationFailure, DuplicateKeyError, BulkWriteError)
