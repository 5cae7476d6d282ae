"""MongoDB at hand.

    mongo.py eval URL DATABASE [CODE]   runs Python code (or that of standard input) with `db`, `client`, `transaction`
                                        and the types of BSON; prints the value of a last line that is an expression
    mongo.py position URL               the cluster time of this moment: `seconds.increment`
"""

import ast
import datetime
import sys
import textwrap
import time
import uuid

import bson
import pymongo
from bson import DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary, UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

PATIENCE_MS = 30_000
# What is read is written back as it was.
LOSSLESS = CodecOptions(uuid_representation=UuidRepresentation.STANDARD, datetime_conversion=DatetimeConversion.DATETIME_MS)


def connect(url: str, **options) -> pymongo.MongoClient:
    return pymongo.MongoClient(url, serverSelectionTimeoutMS=PATIENCE_MS, uuidRepresentation="standard", **options)


def position(client) -> Timestamp:
    return client.admin.command("ping")["operationTime"]


def run(code: str, scope: dict) -> None:
    """What the server tells of a write is not worth a line."""
    body = ast.parse(textwrap.dedent(code)).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "<code>", "exec"), scope)
    if last:
        value = eval(compile(ast.Expression(last.value), "<code>", "eval"), scope)
        if isinstance(value, (str, int, float, list, tuple, ObjectId, Timestamp)):
            print(value)


def main():
    match sys.argv[1:]:
        case ["eval", url, database, *code]:
            client = connect(url)

            def transaction(function):
                """`function` is called with a session, maybe more than once."""
                with client.start_session() as session:
                    return session.with_transaction(function)

            scope = {name: value for name, value in globals().items() if not name.startswith("__")}
            scope |= {"client": client, "db": client.get_database(database, LOSSLESS), "transaction": transaction}
            run(code[0] if code else sys.stdin.read(), scope)
        case ["position", url]:
            at = position(connect(url))
            print(f"{at.time}.{at.inc}")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
