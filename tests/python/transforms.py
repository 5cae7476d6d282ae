"""What the lake has of columns that the configuration excludes, hashes or masks, made from the source's own values.

Written from the README, apart from the program: a hash is HMAC-SHA-256 in hex of a text's UTF-8 bytes, of binary
values' bytes, and of the text of numbers, dates (ISO) and timestamps (ISO, six digits after the point, `Z` with a zone).
"""

import datetime
import hashlib
import hmac
import json
import re
from dataclasses import replace

import pyarrow as pa

from canonical import RAW, TEXT, Column, Type

EPOCH = datetime.datetime(1970, 1, 1)
STRING = Type("string", RAW, TEXT)


class Transforms:
    """`{"exclude": […], "hash": […], "mask": {…}, "key": …}`, the same for every table."""

    def __init__(self, text: str = "{}"):
        settings = json.loads(text)
        self.exclude, self.hash = settings.get("exclude", []), settings.get("hash", [])
        self.mask, self.key = settings.get("mask", {}), settings.get("key", "").encode()

    def columns(self, columns: list[Column]) -> list[Column]:
        """The lake's columns of the source's."""
        kept = [c for c in columns if not matching(self.exclude, c.name)]
        changed = lambda c: matching(self.mask, c.name) or matching(self.hash, c.name)
        return [replace(c, type=STRING) if changed(c) else c for c in kept]

    def rows(self, rows: pa.Table, columns: list[Column]) -> pa.Table:
        """The lake's rows of the source's, which are in exact form."""
        types = {c.name: c.type for c in columns}
        kept = [c.name for c in self.columns(columns)]
        return pa.table([self.column(rows[name], name, types[name]) for name in kept], kept)

    def column(self, values: pa.ChunkedArray, name: str, kind: Type) -> pa.ChunkedArray:
        if pattern := matching(self.mask, name):
            form = lambda _: self.mask[pattern]
        elif matching(self.hash, name):
            form = lambda value: hmac.new(self.key, plain(value, kind), hashlib.sha256).hexdigest()
        else:
            return values
        return pa.chunked_array([pa.array([None if v is None else form(v) for v in values.to_pylist()], TEXT)])


def matching(patterns, name: str) -> str | None:
    expression = lambda p: "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in p)
    return next((p for p in patterns if re.fullmatch(expression(p), name, re.IGNORECASE | re.DOTALL)), None)


def plain(value, kind: Type) -> bytes:
    """What is hashed of a value in exact form."""
    match kind.delta:
        case "binary":
            return bytes.fromhex(value.removeprefix("\\x"))
        case "date":
            return (EPOCH + datetime.timedelta(value)).date().isoformat().encode()
        case "timestamp" | "timestamp_ntz":
            text = (EPOCH + datetime.timedelta(microseconds=value)).isoformat(timespec="microseconds")
            return (text + "Z" * (kind.delta == "timestamp")).encode()
    return (format(value, "f") if kind.delta.startswith("decimal") else str(value)).encode()
