"""A workload whose every committed state is known: one connection per table writes random transactions, so that
each table's history is serial; one more writes two tables at once.

The journal has a line per committed transaction: its `gtid`, or for PostgreSQL `before` and `after`, between which
its commit record lies in the WAL; and `changes`, table → [key, row or null]. Values are in the exact form of canonical.py, long ones as
a digest. check_history.py rebuilds from it what a table must hold at any watermark.

Prints `ready` when the tables exist and hold their first rows; the transactions begin then, and end after --seconds.
"""

import argparse
import hashlib
import json
import random
import struct
import sys
import threading
import time
import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import source

ROWS_MIN, ROWS_MAX = 300, 2500
EPOCH = datetime(1970, 1, 1)


def digest(text: str | None) -> str | None:
    return text if text is None or len(text) <= 64 else hashlib.md5(text.encode()).hexdigest()


# Each kind of value: random → (what the server is sent, its exact form).
def integer(r):
    value = r.randint(-(2**31), 2**31 - 1)
    return value, str(value)


def decimal(r):
    value = str(Decimal(r.randint(-(10**11), 10**11)).scaleb(-2))
    return value, value


def double(r):
    return bits_of(r.choice([r.uniform(-1e9, 1e9), r.random(), 0.0, -0.0, float("nan"), float("inf")]))


def finite(r):
    return bits_of(r.choice([r.uniform(-1e9, 1e9), r.random(), 0.0, 1e300]))


def bits_of(value):
    return value, str(struct.unpack(">q", struct.pack(">d", value))[0])


def timestamp(r):
    value, exact = datetime6(r)
    return value + "Z", exact


def datetime6(r):
    value = r.randint(0, 10**16)
    return (EPOCH + timedelta(microseconds=value)).isoformat(), str(value)


def bits(r):
    value = r.randint(0, 1)
    return value, str(value)


def latin(r):
    value = "".join(r.choices("abcéüß'\\", k=r.randint(0, 9)))
    return value, value


def bytes_(r):
    value = r.randbytes(r.randint(0, 40))
    return value, digest("\\x" + value.hex())


def text(r):
    value = "".join(r.choices("ab żó😀'\"\\,\t\n", k=r.randint(0, 30)))
    return value, value


def boolean(r):
    value = r.random() < 0.5
    return value, "t" if value else "f"


def long_text(r):
    value = r.randbytes(r.randint(1500, 6000)).hex()
    return value, digest(value)


def long_json(r):
    value = json.dumps({"a": r.randint(0, 9), "pad": r.randbytes(r.randint(10, 4000)).hex()})
    return value, digest(value)


def texts(r):
    value = [r.choice(["x", "", "NULL", None, "a,b"]) for _ in range(r.randint(0, 4))]
    return value, digest(json.dumps(value))


# TRUNCATE is a part of transactions, or a transaction of its own.
WITHIN, APART = "within", "apart"


class Table:
    """A table, the rows it holds as of the last commit, and as of the open transaction."""

    def __init__(self, name, definition, key, values, new_key, truncates=None, bulk=False):
        self.name, self.definition, self.key, self.values = name, definition, key, values
        self.new_key, self.truncates, self.bulk = new_key, truncates, bulk
        self.committed, self.rows, self.fresh = {}, {}, 0

    def unused_key(self, r):
        """Mostly a key never used, sometimes one that was deleted."""
        if self.fresh and r.random() < 0.3:
            key = self.new_key(r.randint(1, self.fresh))
            if key not in self.rows:
                return key
        self.fresh += 1
        return self.new_key(self.fresh)

    def random_values(self, r, names):
        return {n: (None, None) if r.random() < 0.1 else self.values[n](r) for n in names}

    def insert(self, cursor, r, keys):
        for key in keys:
            row = self.random_values(r, self.values)
            names = [*self.key, *row]
            sql = f"INSERT INTO {self.name} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})"
            cursor.execute(sql, [*key, *(sent for sent, _ in row.values())])
            self.rows[key] = {n: exact for n, (_, exact) in row.items()}

    def update(self, cursor, r, key):
        """Sets some columns; out-of-line values of the others stay unchanged."""
        row = self.random_values(r, r.sample(list(self.values), r.randint(1, max(1, len(self.values) - 1))))
        self.change(cursor, key, key, row)

    def change(self, cursor, key, new_key, row):
        names = [*row, *(self.key if new_key != key else ())]
        sent = [s for s, _ in row.values()] + (list(new_key) if new_key != key else [])
        cursor.execute(
            f"UPDATE {self.name} SET {', '.join(n + ' = %s' for n in names)} WHERE {self.where()}", [*sent, *key]
        )
        self.rows[new_key] = self.rows.pop(key) | {n: exact for n, (_, exact) in row.items()}

    def delete(self, cursor, key):
        cursor.execute(f"DELETE FROM {self.name} WHERE {self.where()}", key)
        del self.rows[key]

    def where(self):
        return " AND ".join(f"{k} = %s" for k in self.key)

    def some(self, r, most):
        return r.sample(sorted(self.rows), min(len(self.rows), r.randint(1, most)))

    def random_operation(self, cursor, r):
        if self.truncates == WITHIN and r.random() < 0.02:
            self.truncate(cursor)
        if self.bulk and r.random() < 0.01:
            return self.insert_many(cursor)
        if len(self.rows) < ROWS_MIN:
            return self.insert(cursor, r, (self.unused_key(r) for _ in range(30)))
        if len(self.rows) > ROWS_MAX:
            for key in self.some(r, 400):
                self.delete(cursor, key)
            return None
        match r.randrange(8):
            case 0 | 1:
                self.insert(cursor, r, (self.unused_key(r) for _ in range(r.randint(1, 10))))
            case 2 | 3:
                for key in self.some(r, 10):
                    self.update(cursor, r, key)
            case 4:
                for key in self.some(r, 8):
                    self.delete(cursor, key)
            case 5:
                for key in self.some(r, 3):
                    self.change(cursor, key, self.unused_key(r), self.random_values(r, self.values) if r.random() < 0.3 else {})
            case 6:  # a row that lives for less than a transaction, and a key whose row is replaced
                fleeting, (replaced, *_) = self.unused_key(r), self.some(r, 1)
                self.insert(cursor, r, [fleeting])
                self.delete(cursor, fleeting)
                self.delete(cursor, replaced)
                self.insert(cursor, r, [replaced])
            case 7:  # two rows exchange their keys
                one, two = r.sample(sorted(self.rows), 2)
                spare = self.unused_key(r)
                for key, new_key in ((one, spare), (two, one), (spare, two)):
                    self.change(cursor, key, new_key, {})

    def truncate(self, cursor):
        cursor.execute(f"TRUNCATE {self.name}")
        self.rows.clear()

    def insert_many(self, cursor):
        """A large transaction: rows of which only the key is set."""
        first, last = self.fresh + 1, self.fresh + 3000
        values = ", ".join(f"({i})" for i in range(first, last + 1))
        cursor.execute(f"INSERT INTO {self.name} ({self.key[0]}) VALUES {values}")
        self.rows |= {self.new_key(i): dict.fromkeys(self.values) for i in range(first, last + 1)}
        self.fresh = last

    def changes(self):
        """[key, row or null], key columns included, since the last commit."""
        for key in self.committed.keys() | self.rows.keys():
            row = self.rows.get(key)
            if row != self.committed.get(key):
                exact = [str(part) for part in key]
                yield exact, row and dict(zip(self.key, exact)) | row


def postgres_tables():
    return [
        [Table("by_int", "id int PRIMARY KEY, a int, b text, c numeric(12,2), d timestamptz", ["id"],
               {"a": integer, "b": text, "c": decimal, "d": timestamp}, lambda i: (i,), bulk=True)],
        [Table("by_identity", "id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n int, big text, doc jsonb",
               ["id"], {"n": integer, "big": long_text, "doc": long_json}, lambda i: (i,))],
        [Table("by_pair", "region text, seq int, v float8, w text, PRIMARY KEY (region, seq)", ["region", "seq"],
               {"v": double, "w": text}, lambda i: (("ü", "", "north, west")[i % 3], i))],
        [Table("by_uuid", "id uuid PRIMARY KEY, v text, flag bool", ["id"],
               {"v": text, "flag": boolean}, lambda i: (str(uuid.UUID(int=i * 2**100 + i)),))],
        [Table("by_row", "id int PRIMARY KEY, big text, tags text[], n int; ALTER TABLE by_row REPLICA IDENTITY FULL",
               ["id"], {"big": long_text, "tags": texts, "n": integer}, lambda i: (i,))],
        [Table("by_index", "id int PRIMARY KEY, tenant int NOT NULL, code text NOT NULL, big text, v text;"
               "CREATE UNIQUE INDEX by_index_code ON by_index (tenant, code);"
               "ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code", ["id", "tenant", "code"],
               {"big": long_text, "v": text}, lambda i: (i, i % 7, f"c{i}"))],
        [Table("truncated", "id int PRIMARY KEY, v int, w text", ["id"],
               {"v": integer, "w": text}, lambda i: (i,), truncates=WITHIN)],
        [Table("orders", "id int PRIMARY KEY, total numeric(12,2)", ["id"],
               {"total": decimal}, lambda i: (i,), truncates=WITHIN),
         Table("order_lines", "order_id int, line int, note text, PRIMARY KEY (order_id, line)", ["order_id", "line"],
               {"note": text}, lambda i: (i // 3, i % 3))],
    ]


def mysql_tables():
    return [
        [Table("by_int", "id int PRIMARY KEY, a int, b varchar(60), c decimal(12,2), d datetime(6)", ["id"],
               {"a": integer, "b": text, "c": decimal, "d": datetime6}, lambda i: (i,), bulk=True)],
        [Table("by_identity", "id bigint unsigned AUTO_INCREMENT PRIMARY KEY, n int, big longtext, doc json",
               ["id"], {"n": integer, "big": long_text, "doc": long_json}, lambda i: (i,))],
        [Table("by_pair", "region varchar(20), seq int, v double, w text, PRIMARY KEY (region, seq)", ["region", "seq"],
               {"v": finite, "w": text}, lambda i: (("ü", "", "north, west")[i % 3], i))],
        [Table("by_uuid", "id char(36) PRIMARY KEY, v text CHARACTER SET utf16, flag bit(1)", ["id"],
               {"v": text, "flag": bits}, lambda i: (str(uuid.UUID(int=i * 2**100 + i)),))],
        [Table("by_row", "id int PRIMARY KEY, big mediumtext, raw varbinary(40), n int, l varchar(9) CHARACTER SET latin1",
               ["id"], {"big": long_text, "raw": bytes_, "n": integer, "l": latin}, lambda i: (i,))],
        [Table("by_index", "id int NOT NULL, tenant int NOT NULL, code varchar(20) NOT NULL, big text, v text;"
               "CREATE UNIQUE INDEX by_index_code ON by_index (tenant, code)", ["id", "tenant", "code"],
               {"big": long_text, "v": text}, lambda i: (i, i % 7, f"c{i}"))],
        [Table("truncated", "id int PRIMARY KEY, v int, w text", ["id"],
               {"v": integer, "w": text}, lambda i: (i,), truncates=APART)],
        [Table("orders", "id int PRIMARY KEY, total decimal(12,2)", ["id"],
               {"total": decimal}, lambda i: (i,)),
         Table("order_lines", "order_id int, line int, note text, PRIMARY KEY (order_id, line)", ["order_id", "line"],
               {"note": text}, lambda i: (i // 3, i % 3))],
    ]


class Writer:
    """Writes transactions of a group of tables through one connection, and the journal of them."""

    def __init__(self, url, journal, group, seed):
        self.connection = source.connect(url)
        self.is_postgres = source.is_postgres(url)
        if url.startswith("mysql:"):
            self.connection.execute("SET session_track_gtids = OWN_GTID")
        self.journal = open(journal / f"{group[0].name}.jsonl", "w", encoding="utf-8")
        self.group, self.random = group, random.Random(seed)

    def position(self):
        return self.connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]

    def transaction(self, operations):
        for table in self.group:
            table.rows = dict(table.committed)
        self.connection.execute("BEGIN")
        with self.connection.cursor() as cursor:
            operations(cursor)
        before = self.position() if self.is_postgres else None
        if self.random.random() < 0.08:
            self.connection.execute("ROLLBACK")
            return
        if self.is_postgres:
            self.connection.execute("COMMIT")
            self.note({"before": before, "after": self.position()})
        else:
            self.note({"gtid": self.connection.commit()})

    def note(self, place):
        """What was committed is the tables' content."""
        changes = {table.name: list(table.changes()) for table in self.group}
        # A transaction that changes nothing is in no log.
        if place.get("gtid") or self.is_postgres:
            self.journal.write(json.dumps(place | {"changes": changes}) + "\n")
            self.journal.flush()
        else:
            assert not any(changes.values()), "a transaction without a GTID has changed something"
        for table in self.group:
            table.committed = table.rows

    def truncate_apart(self):
        for table in self.group:
            if table.truncates == APART and self.random.random() < 0.04:
                table.rows = dict(table.committed)
                table.truncate(self.connection)
                self.note({"gtid": self.connection.new_gtid()})

    def create(self):
        for table in self.group:
            definition, *more = table.definition.split(";")
            self.connection.execute(f"CREATE TABLE {table.name} ({definition})")
            for statement in more:
                self.connection.execute(statement)
        while any(len(table.committed) < ROWS_MIN for table in self.group):
            self.transaction(self.random_operations)

    def random_operations(self, cursor):
        r = self.random
        for _ in range(r.choice([1, 1, 2, 5])):
            kept = [dict(table.rows) for table in self.group] if r.random() < 0.15 else None
            if kept:
                cursor.execute("SAVEPOINT s")
            for table in self.group:
                table.random_operation(cursor, r)
            if kept and r.random() < 0.6:
                cursor.execute("ROLLBACK TO s")
                for table, rows in zip(self.group, kept):
                    table.rows = rows

    def run(self, until, rate):
        while time.monotonic() < until:
            self.truncate_apart()
            self.transaction(self.random_operations)
            time.sleep(self.random.expovariate(rate))
        self.journal.close()
        self.connection.close()


def unpublished(url, until):
    """Log that no replicated table is concerned by."""
    connection = source.connect(url)
    while time.monotonic() < until:
        connection.execute("INSERT INTO skipped VALUES (repeat('x', 10000))")
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="connection string of an empty database")
    parser.add_argument("--journal", required=True, type=Path, help="directory of the journal")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=15, help="transactions per second and connection")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.journal.mkdir(parents=True, exist_ok=True)
    tables = postgres_tables() if source.is_postgres(arguments.source) else mysql_tables()
    writers = [Writer(arguments.source, arguments.journal, group, arguments.seed + i) for i, group in enumerate(tables)]
    for writer in writers:
        writer.create()
    writers[0].connection.execute("CREATE TABLE skipped (v text)")
    print("ready", flush=True)

    until = time.monotonic() + arguments.seconds
    failed = []
    threading.excepthook = lambda failure: (failed.append(failure), sys.__excepthook__(*failure[:3]))
    threads = [threading.Thread(target=w.run, args=(until, arguments.rate)) for w in writers]
    threads.append(threading.Thread(target=unpublished, args=(arguments.source, until)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
