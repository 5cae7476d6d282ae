"""Values of BSON without loss, as BSON and extended JSON have them: written from the specifications, apart from the
program and from pymongo, which takes some types for others.

A value is a tuple of its type's name and what it is: ("int", 5), ("document", {"a": ("null",)}).
Spec: bsonspec.org 1.1; MongoDB Extended JSON v2, "Canonical".
"""

import base64
import json
import math
import struct
from decimal import Context, Decimal

from bson import Decimal128

# As many digits as any Decimal128 or int64 has at any scale.
EXACT = Context(prec=200)


def double(value: float) -> tuple:
    """By its bits; that something is no number is told, not which of them."""
    return ("double", "NaN" if math.isnan(value) else struct.pack(">d", value))


def decode(data: bytes) -> tuple:
    """The document that `data` is."""
    found, end = read_document(data, 0)
    assert end == len(data), "bytes after the document"
    return ("document", found)


def decode_all(data: bytes) -> list[tuple]:
    """The documents that `data` is made of."""
    at, found = 0, []
    while at < len(data):
        document, at = read_document(data, at)
        found.append(("document", document))
    return found


def read_document(data, at):
    end = at + struct.unpack_from("<i", data, at)[0]
    at += 4
    found = {}
    while data[at]:
        kind, stop = data[at], data.index(0, at + 1)
        name = str(data[at + 1 : stop], "utf-8")
        assert name not in found, f"the field {name!r} is there twice"
        found[name], at = read_value(data, kind, stop + 1)
    assert at == end - 1, "a document's length"
    return found, end


def read_text(data, at):
    (size,) = struct.unpack_from("<i", data, at)
    return str(data[at + 4 : at + 3 + size], "utf-8"), at + 4 + size


def read_name(data, at):
    stop = data.index(0, at)
    return str(data[at:stop], "utf-8"), stop + 1


def read_value(data, kind, at):
    match kind:
        case 0x01:
            return double(struct.unpack_from("<d", data, at)[0]), at + 8
        case 0x02 | 0x0D | 0x0E:
            text, at = read_text(data, at)
            return ({0x02: "string", 0x0D: "code", 0x0E: "symbol"}[kind], text), at
        case 0x03:
            found, at = read_document(data, at)
            return ("document", found), at
        case 0x04:
            found, at = read_document(data, at)
            return ("array", list(found.values())), at
        case 0x05:
            size, subtype = struct.unpack_from("<iB", data, at)
            start = at + 5
            # The old kind says its length twice.
            skip = 4 if subtype == 2 else 0
            return ("binary", subtype, bytes(data[start + skip : start + size])), start + size
        case 0x06:
            return ("undefined",), at
        case 0x07:
            return ("objectId", bytes(data[at : at + 12]).hex()), at + 12
        case 0x08:
            return ("bool", data[at] == 1), at + 1
        case 0x09:
            return ("date", struct.unpack_from("<q", data, at)[0]), at + 8
        case 0x0A:
            return ("null",), at
        case 0x0B:
            pattern, at = read_name(data, at)
            options, at = read_name(data, at)
            return ("regex", pattern, "".join(sorted(options))), at
        case 0x0C:
            text, at = read_text(data, at)
            return ("dbPointer", text, bytes(data[at : at + 12]).hex()), at + 12
        case 0x0F:
            text, at = read_text(data, at + 4)
            scope, at = read_document(data, at)
            return ("code", text, ("document", scope)), at
        case 0x10:
            return ("int", struct.unpack_from("<i", data, at)[0]), at + 4
        case 0x11:
            increment, time = struct.unpack_from("<II", data, at)
            return ("timestamp", time, increment), at + 8
        case 0x12:
            return ("long", struct.unpack_from("<q", data, at)[0]), at + 8
        case 0x13:
            return ("decimal", str(Decimal128.from_bid(bytes(data[at : at + 16])))), at + 16
        case 0x7F:
            return ("maxKey",), at
        case 0xFF:
            return ("minKey",), at
    raise ValueError(f"type {kind:#x} of BSON")


def parse(text: str) -> tuple:
    """The value that canonical extended JSON tells; what is not canonical is a value that equals none."""
    return from_json(json.loads(text, object_pairs_hook=Pairs))


class Pairs(list):
    """An object's members."""


def from_json(value) -> tuple:
    if isinstance(value, Pairs):
        return from_object(value)
    match value:
        case None:
            return ("null",)
        case bool():
            return ("bool", value)
        case str():
            return ("string", value)
        case list():
            return ("array", [from_json(item) for item in value])
    return ("bare number", value)


def from_object(pairs) -> tuple:
    members = dict(pairs)
    if len(members) < len(pairs):
        return ("a field twice", [name for name, _ in pairs])
    match members:
        case {"$oid": str(digits), **rest} if not rest:
            return ("objectId", digits)
        case {"$numberInt": str(digits), **rest} if not rest:
            return ("int", int(digits))
        case {"$numberLong": str(digits), **rest} if not rest:
            return ("long", int(digits))
        case {"$numberDouble": str(digits), **rest} if not rest:
            return double(float(digits))
        case {"$numberDecimal": str(digits), **rest} if not rest:
            return ("decimal", str(Decimal128(digits)))
        case {"$symbol": str(text), **rest} if not rest:
            return ("symbol", text)
        case {"$code": str(text), **rest} if not rest:
            return ("code", text)
        case {"$code": str(text), "$scope": scope, **rest} if not rest:
            return ("code", text, from_json(scope))
        case {"$binary": Pairs() as inner, **rest} if not rest:
            inner = dict(inner)
            return ("binary", int(inner["subType"], 16), base64.b64decode(inner["base64"], validate=True))
        case {"$timestamp": Pairs() as inner, **rest} if not rest:
            inner = dict(inner)
            return ("timestamp", inner["t"], inner["i"])
        case {"$regularExpression": Pairs() as inner, **rest} if not rest:
            inner = dict(inner)
            return ("regex", inner["pattern"], "".join(sorted(inner["options"])))
        case {"$dbPointer": Pairs() as inner, **rest} if not rest:
            inner = dict(inner)
            return ("dbPointer", inner["$ref"], dict(inner["$id"])["$oid"])
        case {"$date": Pairs() as inner, **rest} if not rest:
            return ("date", int(dict(inner)["$numberLong"]))
        case {"$minKey": 1, **rest} if not rest:
            return ("minKey",)
        case {"$maxKey": 1, **rest} if not rest:
            return ("maxKey",)
        case {"$undefined": True, **rest} if not rest:
            return ("undefined",)
    return ("document", {name: from_json(item) for name, item in pairs})


NUMBERS = {"int", "long", "double", "decimal"}


def number(value: tuple) -> Decimal | None:
    """A number's value, exactly."""
    match value:
        case ("int" | "long", digits):
            return Decimal(digits)
        case ("double", "NaN"):
            return Decimal("NaN")
        case ("double", bits):
            return Decimal(struct.unpack(">d", bits)[0])
        case ("decimal", digits):
            return Decimal(digits)
    return None


def identity(value: tuple) -> tuple:
    """What MongoDB tells `_id`s apart by: numbers of whatever type by their values, documents with their order."""
    match value:
        case ("document", fields):
            return ("document", tuple((name, identity(item)) for name, item in fields.items()))
        case ("array", items):
            return ("array", tuple(map(identity, items)))
        case ("code", text, scope):
            return ("code", text, identity(scope))
    plain = number(value)
    if plain is None:
        return value
    return ("number", "NaN" if plain.is_nan() else str(plain.normalize(EXACT)) if plain else "0")
