"""What the lake has of documents whose fields the configuration leaves out, hashes or masks, made from the source's own.

Written from the README, apart from the program. Values are those of mongo_values.py.
"""

import base64
import datetime
import hashlib
import hmac
import json

from mongo_values import number
from transforms import matching

DAY_MS = 86_400_000
# 400 years are always as long.
CYCLE_YEARS, CYCLE_DAYS = 400, 146_097
EPOCH_DAY = datetime.date(1970, 1, 1).toordinal()


class Transforms:
    """`{"include": […], "exclude": […], "hash": […], "mask": {…}, "key": …}`, the same for every collection."""

    def __init__(self, text: str = "{}"):
        settings = json.loads(text)
        self.include, self.exclude = settings.get("include"), settings.get("exclude", [])
        self.hash, self.mask = settings.get("hash", []), settings.get("mask", {})
        self.key = settings.get("key", "").encode()

    def document(self, document: tuple) -> tuple:
        fields = ((name, self.field(name.split(".")[0], value)) for name, value in document[1].items())
        return ("document", {name: value for name, value in fields if value is not None})

    def field(self, name: str, value: tuple) -> tuple | None:
        if self.include is not None and not matching(self.include, name) or matching(self.exclude, name):
            return None
        if value == ("null",):
            return value
        if pattern := matching(self.mask, name):
            return ("string", self.mask[pattern])
        if matching(self.hash, name):
            return ("string", hmac.new(self.key, plain(value), hashlib.sha256).hexdigest())
        return value


def plain(value: tuple) -> bytes:
    """What is hashed of a value."""
    match value:
        case ("string" | "objectId", text):
            return text.encode()
        case ("date", ms):
            return timestamp(ms).encode()
        case ("binary", 0, data):
            return data
        case ("binary", 4, data) if len(data) == 16:
            digits = data.hex()
            return "-".join([digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]]).encode()
    return by_value(value).encode()


def timestamp(ms: int) -> str:
    days, rest = divmod(ms, DAY_MS)
    cycles, day = divmod(days + EPOCH_DAY - 1, CYCLE_DAYS)
    date = datetime.date.fromordinal(day + 1)
    year = date.year + cycles * CYCLE_YEARS
    seconds, rest = divmod(rest, 1000)
    time = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}000"
    return f"{'-' * (year < 0)}{abs(year):04}-{date.month:02}-{date.day:02}T{time}Z"


def digits_of(value: tuple) -> str:
    """All digits that count, and no others."""
    found = number(value)
    if not found.is_finite():
        return "NaN" if found.is_nan() else "-Infinity" if found < 0 else "Infinity"
    text = format(found, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text if found else "0"


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\\b", "\\u0008").replace("\\f", "\\u000c")


def form(name: str, inside) -> str:
    """One of extended JSON's objects, whose members are as they are given here."""
    members = inside if isinstance(inside, str) else "{" + ",".join(f'"{n}":{v}' for n, v in inside.items()) + "}"
    return f'{{"${name}":{members}}}'


def by_value(value: tuple) -> str:
    """Canonical extended JSON with names in order, and numbers as their digits."""
    match value:
        case ("document", fields):
            names = sorted(fields, key=str.encode)
            return "{" + ",".join(f"{quoted(name)}:{by_value(fields[name])}" for name in names) + "}"
        case ("array", items):
            return "[" + ",".join(map(by_value, items)) + "]"
        case ("string", text):
            return quoted(text)
        case ("bool", truth):
            return "true" if truth else "false"
        case ("null",):
            return "null"
        case ("undefined",):
            return form("undefined", "true")
        case ("minKey" | "maxKey" as name,):
            return form(name, "1")
        case ("objectId", digits):
            return form("oid", quoted(digits))
        case ("date", ms):
            return form("date", {"$numberLong": quoted(str(ms))})
        case ("timestamp", time, increment):
            return form("timestamp", {"t": time, "i": increment})
        case ("binary", subtype, data):
            return form("binary", {"base64": quoted(base64.b64encode(data).decode()), "subType": f'"{subtype:02x}"'})
        case ("regex", pattern, options):
            return form("regularExpression", {"pattern": quoted(pattern), "options": quoted(options)})
        case ("dbPointer", text, digits):
            return form("dbPointer", {"$ref": quoted(text), "$id": form("oid", quoted(digits))})
        case ("code" | "symbol" as name, text):
            return form(name, quoted(text))
        case ("code", text, scope):
            return f'{{"$code":{quoted(text)},"$scope":{by_value(scope)}}}'
    return digits_of(value)
