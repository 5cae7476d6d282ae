"""Random changes of rows and of the tables themselves: several connections write and alter the same tables.

Nothing is remembered about the tables; each operation looks at the catalogue first. Whatever two connections do to
each other (a column gone, a table renamed, a deadlock) rolls one transaction back, which is a case too. At the end
some tables are altered once more and then left alone. Compare the source with the lake by compare.py.

Prints `ready` when the tables exist and hold their first rows, and at the end how often each kind of change was
committed. Fails if an operation was refused for a reason that others can't have caused.
"""

import argparse
import collections
import random
import re
import sys
import threading
import time
from dataclasses import dataclass

import psycopg

TABLES_MIN, TABLES_MAX = 5, 9
ROWS_MIN, ROWS_MAX = 200, 3000
# Few names, so that they are used again.
TABLE_NAMES = [f"t{i}" for i in range(12)]
COLUMN_NAMES = [*"abcdefgh", "Select", 'q"ä']
COLUMNS_MAX = 8
# By SQLSTATE: lock and deadlock timeouts, objects that others altered, values that an altered column does not take.
FORGIVEN = set(
    "40P01 55P03 40001 42P01 42703 42701 42P07 42704 23505 23502 22001 22003 55000 55006 0A000 42804 42P16 42P10 XX000 57014".split()
)
CATALOG_CHANGED = re.compile("cache lookup failed|could not open relation|tuple concurrently|relation .* does not exist")

TABLES = """
    SELECT c.oid, c.relname FROM pg_class c
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname ~ '^t[0-9]+$' ORDER BY c.relname
"""
COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef, a.attgenerated <> '',
           a.attidentity <> '', a.attstorage = 'e', coalesce(a.attnum = ANY (i.indkey), false)
    FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
    WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
CONSTRAINT = "SELECT conname FROM pg_constraint WHERE conrelid = %s AND contype = 'p'"

# Type → SQL for a random value.
VALUES = {
    "integer": "(random() * 2000 - 1000)::int",
    "bigint": "(random() * 1e15)::bigint",
    "smallint": "(random() * 30000)::int2",
    "oid": "(random() * 1e9)::int8::oid",
    "numeric": "random()::numeric",
    "double precision": "random() * 1e6",
    "boolean": "random() < 0.5",
    "date": "date '2020-01-01' + (random() * 3000)::int",
    "uuid": "gen_random_uuid()",
    "bytea": "decode(md5(random()::text), 'hex')",
    "jsonb": "jsonb_build_object('a', (random() * 9)::int, 'pad', repeat(md5(random()::text), (random() * 99)::int))",
    "integer[]": "ARRAY[(random() * 9)::int, NULL, (random() * 9)::int]",
    "text[]": "ARRAY['a,b', md5(random()::text), '']",
    "text": "md5(random()::text)",
    "character varying": "md5(random()::text)",
}
LONG = "repeat(md5(random()::text), 70 + (random() * 60)::int)"
TYPES = [*sorted(VALUES.keys() - {"oid", "character varying"}), "varchar(20)", "varchar(60)", "numeric(10,2)", "timestamp(3) without time zone", "timestamptz(6)"]


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    not_null: bool
    default: bool
    generated: bool
    identity: bool
    external: bool
    key: bool

    def __str__(self):
        return quote(self.name)

    def value(self, r) -> str:
        form = LONG if self.external and r.random() < 0.7 else value(self.type)
        return form if self.not_null or r.random() < 0.5 else f"CASE WHEN random() > 0.15 THEN {form} END"


@dataclass(frozen=True)
class Table:
    oid: int
    name: str
    columns: list[Column]

    def __str__(self):
        return quote(self.name)

    def free(self) -> list[Column]:
        return [c for c in self.columns if not (c.key or c.generated)]

    def key(self) -> list[Column]:
        return [c for c in self.columns if c.key]

    def some(self, count: int) -> str:
        return f"ctid = ANY (ARRAY(SELECT ctid FROM {self} ORDER BY random() LIMIT {count}))"


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def value(kind: str) -> str:
    if length := re.fullmatch(r"character varying\((\d+)\)|varchar\((\d+)\)", kind):
        return f"left(md5(random()::text) || md5(random()::text), (random() * {length[1] or length[2]})::int)"
    if kind.startswith("timestamp"):
        return f"('2020-01-01'::timestamp + random() * interval '1000 days')::{kind}"
    if kind.startswith("numeric("):
        return f"(random() * 1e5)::{kind}"
    return VALUES[kind]


# Changes of rows: each returns statements, or nothing if the table has no place for it.
def insert(r, table):
    count = r.randint(1, 15)
    columns = [c for c in table.columns if not c.generated]
    columns = [c for c in columns if not (c.identity or c.default and r.random() < 0.4)]
    values = ["(random() * 20000)::int" if c.key and c.type in ("integer", "bigint") else c.value(r) for c in columns]
    if not columns:
        return [f"INSERT INTO {table} DEFAULT VALUES"]
    names = ", ".join(map(str, columns))
    return [f"INSERT INTO {table} ({names}) SELECT {', '.join(values)} FROM generate_series(1, {count}) ON CONFLICT DO NOTHING"]


def update(r, table):
    """Some columns of some rows; out-of-line values of the others stay unchanged."""
    free = [c for c in table.free() if not c.identity]
    if not free:
        return None
    chosen = r.sample(free, r.randint(1, min(len(free), 3)))
    if r.random() < 0.6:
        chosen = [c for c in chosen if not c.external] or chosen
    sets = ", ".join(f"{c} = {c.value(r)}" for c in chosen)
    return [f"UPDATE {table} SET {sets} WHERE {table.some(r.choice([1, 5, 60]))}"]


def move_keys(r, table):
    """A row goes to another key; sometimes another takes its place."""
    columns = [c for c in table.key() if c.type in ("integer", "bigint")]
    if not columns:
        return None
    return [f"UPDATE {table} SET {r.choice(columns)} = -{columns[0]} WHERE {table.some(r.randint(1, 3))}"]


def delete(r, table):
    return [f"DELETE FROM {table} WHERE {table.some(r.randint(1, 10))}"]


def replace_rows(r, table):
    return delete(r, table) + insert(r, table)


def truncate(r, table):
    return [f"TRUNCATE {table}"]


# Changes of columns.
def add(r, table, definition):
    name = new_name(r, table)
    return name and [f"ALTER TABLE {table} ADD COLUMN {name} {definition}"]


def new_name(r, table):
    unused = sorted(set(COLUMN_NAMES) - {c.name for c in table.columns})
    return quote(r.choice(unused)) if unused and len(table.columns) < COLUMNS_MAX else None


def add_empty(r, table):
    return add(r, table, r.choice(TYPES))


def add_long(r, table):
    name = new_name(r, table)
    return name and [f"ALTER TABLE {table} ADD COLUMN {name} text; ALTER TABLE {table} ALTER {name} SET STORAGE EXTERNAL"]


def add_constant(r, table):
    return add(r, table, r.choice(["int DEFAULT 7", "text DEFAULT 'earlier rows show this'", "numeric(10,2) DEFAULT 1.5"]))


def add_volatile(r, table):
    return add(r, table, r.choice(["float8 DEFAULT random()", "uuid DEFAULT gen_random_uuid()", "timestamptz DEFAULT clock_timestamp()"]))


def add_not_null(r, table):
    return add(r, table, r.choice(["int NOT NULL DEFAULT 3", "varchar(20) NOT NULL DEFAULT 'x'", "bool NOT NULL DEFAULT random() < 0.5"]))


def add_identity(r, table):
    return add(r, table, "bigint GENERATED BY DEFAULT AS IDENTITY")


def add_generated(r, table):
    return add(r, table, "int GENERATED ALWAYS AS (1 + 1) STORED")


def one_free(r, table):
    """A column to alter, while others remain."""
    free = table.free()
    return r.choice(free) if len(free) > 1 else None


def drop(r, table):
    column = one_free(r, table)
    return column and [f"ALTER TABLE {table} DROP COLUMN {column}"]


def rename(r, table):
    column, name = r.choice(table.columns), new_name(r, table)
    return name and [f"ALTER TABLE {table} RENAME {column} TO {name}"]


def exchange_names(r, table):
    if len(table.columns) < 2:
        return None
    one, two = r.sample(table.columns, 2)
    steps = [(one, "between"), (two, one), ("between", two)]
    return [f"ALTER TABLE {table} RENAME {old} TO {new}" for old, new in steps]


def replace_column(r, table):
    """Another column under the same name, of the same or another type."""
    column = one_free(r, table)
    if not column or column.identity:
        return None
    kind = column.type if r.random() < 0.5 else r.choice(TYPES)
    return [f"ALTER TABLE {table} DROP COLUMN {column}, ADD COLUMN {column} {kind}"]


def replace_column_in_two(r, table):
    column = one_free(r, table)
    kind = r.choice(TYPES)
    return column and [f"ALTER TABLE {table} DROP COLUMN {column}", None, f"ALTER TABLE {table} ADD COLUMN {column} {kind}"]


def change_type(r, table):
    column = r.choice(table.columns)
    if column.identity or column.generated:
        return None
    name, kind, ways = str(column), column.type, []
    if kind == "integer":
        ways = ["bigint", f"int USING {name} * 10", f"bigint USING {name} * 10", "oid"]
        ways += [] if column.key else ["text"]
    elif kind == "bigint" and not column.key:
        ways = ["text", "numeric(20,0)"]
    elif length := re.fullmatch(r"character varying\((\d+)\)", kind):
        ways = [f"varchar({int(length[1]) + 10})", "text", "varchar", f"varchar(10) USING left({name}, 10)"]
    elif kind in ("text", "character varying") and not column.external:
        ways = [f"int USING length({name})", f"varchar(100) USING left({name}, 100)", "text"]
    elif kind == "numeric(10,2)":
        ways = ["numeric(12,2)", "numeric(14,4)", "numeric"]
    elif kind == "timestamp(3) without time zone":
        ways = ["timestamp(6)", "timestamp", "timestamptz(3)"]
    elif kind == "date":
        ways = ["timestamp(3)", "text"]
    elif kind == "boolean":
        ways = [f"int USING {name}::int", f"bool USING NOT {name}"]
    elif kind == "smallint":
        ways = ["int"]
    default = f"ALTER {name} DROP DEFAULT, " if column.default else ""
    return [f"ALTER TABLE {table} {default}ALTER {name} TYPE {r.choice(ways)}"] if ways else None


def change_nothing(r, table):
    """The lake does not care."""
    column = r.choice(table.columns)
    changes = ["SET STATISTICS 50"] if column.generated or column.identity else ["SET STATISTICS 50", "SET DEFAULT NULL", "DROP DEFAULT"]
    changes += [] if column.key or column.identity else ["DROP NOT NULL"]
    return [f"ALTER TABLE {table} ALTER {column} {r.choice(changes)}"]


# Changes of what identifies rows.
def new_key(r, table):
    """On a new column, on an old one besides, or on fewer."""
    name, free = new_name(r, table), [c for c in table.free() if c.not_null and c.type in ("integer", "bigint")]
    begin = f"ALTER TABLE {table} DROP CONSTRAINT $primary"
    ways = []
    if name:
        ways.append([f"{begin}, ADD COLUMN {name} bigint GENERATED BY DEFAULT AS IDENTITY, ADD PRIMARY KEY ({name})"])
    if free:
        ways.append([f"{begin}, ADD PRIMARY KEY ({', '.join(map(str, table.key() + free[:1]))})"])
    if len(table.key()) > 1:
        ways.append([f"{begin}, ADD PRIMARY KEY ({table.key()[-1]})"])
    return r.choice(ways) if ways else None


def replica_identity(r, table):
    return [f"ALTER TABLE {table} REPLICA IDENTITY {r.choice(['FULL', 'DEFAULT'])}"]


# Changes of names and of the set of tables.
def create(r, name, before=""):
    kinds = r.sample(TYPES, r.randint(1, 4))
    columns = [f"{quote(n)} {kind}" for n, kind in zip(r.sample(COLUMN_NAMES, len(kinds)), kinds)]
    key = r.choice(["id int PRIMARY KEY", "id bigint PRIMARY KEY", "id int, part int NOT NULL DEFAULT 0, PRIMARY KEY (id, part)"])
    first = (
        f"INSERT INTO {name} (id) SELECT generate_series(1, {r.randint(ROWS_MIN, ROWS_MAX // 2)})",
        f"UPDATE {name} SET long = {LONG} WHERE id % 5 = 0",
    )
    return [
        f"{before}CREATE TABLE {name} ({key}, {', '.join(columns)}, n int, long text)",
        f"ALTER TABLE {name} ALTER long SET STORAGE EXTERNAL",
        *first,
    ]


def rename_table(r, table, unused):
    return unused and [f"ALTER TABLE {table} RENAME TO {r.choice(unused)}"]


def swap_table(r, table, unused):
    """A copy takes the table's name, which goes on under another, or away."""
    if len(unused) < 2:
        return None
    old, new = r.sample(unused, 2)
    if any(c.identity or c.generated for c in table.columns):
        return None
    end = r.choice([[], [f"DROP TABLE {old}"]])
    return [f"CREATE TABLE {new} (LIKE {table} INCLUDING ALL)", f"INSERT INTO {new} SELECT * FROM {table}",
            f"ALTER TABLE {table} RENAME TO {old}", f"ALTER TABLE {new} RENAME TO {table}", *end]


def exchange_tables(r, table, unused, other):
    if not unused or other.name == table.name:
        return None
    return [f"ALTER TABLE {table} RENAME TO {unused[0]}", f"ALTER TABLE {other} RENAME TO {table}",
            f"ALTER TABLE {unused[0]} RENAME TO {other}"]


def recreate(r, table):
    return create(r, str(table), f"DROP TABLE {table}; ")


def recreate_in_two(r, table):
    return [f"DROP TABLE {table}", None, *create(r, str(table))]


def rewrite(r, table):
    return [r.choice([f"VACUUM FULL {table}", f"CLUSTER {table} USING $primary"])]


ROW_CHANGES = [(insert, 6), (update, 8), (move_keys, 3), (delete, 3), (replace_rows, 2), (truncate, 0.1)]
COLUMN_CHANGES = [
    (add_empty, 4), (add_long, 3), (add_constant, 3), (add_volatile, 2), (add_not_null, 2), (add_identity, 1),
    (add_generated, 1), (drop, 7), (rename, 5), (exchange_names, 2), (replace_column, 4), (replace_column_in_two, 3),
    (change_type, 10), (change_nothing, 2), (new_key, 2), (replica_identity, 1),
]
TABLE_CHANGES = [(rename_table, 2), (swap_table, 2), (exchange_tables, 1), (recreate, 1), (recreate_in_two, 1), (rewrite, 3)]


def choose(r, weighted):
    functions, weights = zip(*weighted)
    return r.choices(functions, weights)[0]


class Shared:
    """What the connections know of each other."""

    def __init__(self, log):
        self.lock = threading.Lock()
        self.quiet = {}
        self.log = log
        self.committed, self.refused, self.unexpected = collections.Counter(), collections.Counter(), []

    def let_rest(self, table, seconds):
        with self.lock:
            self.quiet[table.oid] = time.monotonic() + seconds

    def rests(self, oid):
        with self.lock:
            return self.quiet.get(oid, 0) > time.monotonic()

    def note(self, text):
        if self.log:
            with self.lock:
                self.log.write(f"{time.time():.3f} {text}\n")
                self.log.flush()


class Writer:
    def __init__(self, url, shared, seed, number):
        self.connection = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        self.connection.execute("SET lock_timeout = '2s'; SET statement_timeout = '20s'; SET timezone = 'UTC'")
        self.connection.execute("SELECT setseed(%s)", (random.Random(seed).random(),))
        self.shared, self.random, self.number = shared, random.Random(seed), number
        self.statements, self.kinds = [], []

    # What there is.
    def tables(self):
        found = []
        for oid, name in self.connection.execute(TABLES).fetchall():
            rows = self.connection.execute(COLUMNS, (oid,)).fetchall()
            found.append(Table(oid, name, [Column(*row) for row in rows]))
        return found

    def pick(self):
        tables = [t for t in self.tables() if t.columns and not self.shared.rests(t.oid)]
        return self.random.choice(tables) if tables else None

    def again(self, oid):
        """The table as it is in the middle of a transaction."""
        return next((t for t in self.tables() if t.oid == oid), None)

    # Statements.
    def execute(self, statement, table=None):
        if table and "$primary" in statement:
            found = self.connection.execute(CONSTRAINT, (table.oid,)).fetchone()
            statement = statement.replace("$primary", quote(found[0]) if found else '"none"')
        self.statements.append(statement)
        self.connection.execute(statement)

    def transaction(self, body):
        """Runs and commits `body`; an error rolls back."""
        self.statements, self.kinds = [], []
        try:
            self.connection.execute("BEGIN")
            if body() is False:
                self.connection.execute("ROLLBACK")
                self.shared.committed["rollback"] += 1
                return False
            self.connection.execute("COMMIT")
        except psycopg.Error as error:
            self.connection.execute("ROLLBACK")
            self.refuse(error)
            return False
        self.done()
        return True

    def outside(self, statement, table):
        """Runs a statement that wants no transaction."""
        self.statements, self.kinds = [], ["rewrite"]
        try:
            self.execute(statement, table)
        except psycopg.Error as error:
            return self.refuse(error)
        return self.done()

    def done(self):
        with self.shared.lock:
            self.shared.committed.update(self.kinds)
        if self.statements:
            self.shared.note(f"{self.number} {self.kinds}: " + "; ".join(s[:300] for s in self.statements))

    def refuse(self, error):
        state = error.sqlstate or "?"
        known = state in FORGIVEN and (state != "XX000" or CATALOG_CHANGED.search(str(error)))
        with self.shared.lock:
            self.shared.refused[f"{state} {','.join(self.kinds)}"] += 1
            if not known:
                self.shared.unexpected.append(f"{state} {error}: {self.statements}")
        self.shared.note(f"{self.number} {self.kinds} refused by {state}: {str(error)[:100]!r} in {self.statements[-1:]}")

    # Operations.
    def change_rows(self, oid=None):
        r = self.random
        table = self.again(oid) if oid else self.pick()
        if not table:
            return
        for _ in range(r.choice([1, 1, 2, 3])):
            change = choose(r, ROW_CHANGES)
            statements = change(r, table)
            if statements:
                self.kinds.append(change.__name__)
                for statement in statements:
                    self.execute(statement)

    def arguments(self, change, table):
        tables = self.tables()
        unused = sorted(set(TABLE_NAMES) - {t.name for t in tables})
        match change.__name__:
            case "exchange_tables":
                return (unused, self.random.choice(tables))
            case "rename_table" | "swap_table":
                return (unused,)
        return ()

    def alter(self):
        """One change of a table, in one of many settings."""
        r = self.random
        table = self.pick()
        if not table:
            return
        change = choose(r, COLUMN_CHANGES if r.random() < 0.85 else TABLE_CHANGES)
        if change is rewrite:
            return self.outside(rewrite(r, table)[0], table)
        setting = r.choice(["alone", "alone", "among rows", "among rows", "burst", "burst in one", "taken back", "rolled back"])
        count = r.randint(2, 4) if "burst" in setting else 1
        changes = [change] + [choose(r, COLUMN_CHANGES) for _ in range(count - 1)]
        # What a setting in one transaction can't have.
        whole = setting not in ("alone", "burst")

        def apply(change):
            now = self.again(table.oid)
            statements = now and change(r, now, *self.arguments(change, now))
            if statements:
                self.kinds.append(change.__name__)
            return statements or []

        def run(statements):
            for statement in statements:
                if statement is None:
                    self.change_rows(table.oid)
                else:
                    self.execute(statement, table)

        def one():
            if setting in ("among rows", "taken back", "rolled back"):
                self.change_rows(table.oid)
            if setting == "taken back":
                kinds = list(self.kinds)
                self.execute("SAVEPOINT s")
                run(apply(changes[0]))
                self.change_rows(table.oid)
                self.execute("ROLLBACK TO s")
                self.kinds = kinds + ["taken back"]
            else:
                for each in changes:
                    run(apply(each))
            if setting in ("among rows", "taken back", "rolled back"):
                self.change_rows(table.oid)
            return setting != "rolled back"

        if whole:
            self.transaction(one)
        else:
            for each in changes:
                self.apart(apply, run, each)
        if r.random() < 0.3:
            self.shared.let_rest(table, r.choice([1, 3, 12]))

    def apart(self, apply, run, change):
        """A change whose statements are transactions of their own where it has two parts."""
        parts = [[]]
        self.kinds = []
        try:
            for statement in apply(change):
                parts.append([]) if statement is None else parts[-1].append(statement)
        except psycopg.Error as error:
            return self.refuse(error)
        kinds = self.kinds
        for part in parts:
            def body(part=part):
                self.kinds = list(kinds)
                run(part)

            if not self.transaction(body):
                break
            if len(parts) > 1 and self.random.random() < 0.5:
                self.transaction(self.change_rows)

    def keep_in_bounds(self):
        """Not too few tables and rows, not too many."""
        r = self.random
        tables = self.tables()
        unused = sorted(set(TABLE_NAMES) - {t.name for t in tables})

        def body():
            if len(tables) < TABLES_MIN and unused:
                self.kinds.append("create")
                for statement in create(r, r.choice(unused)):
                    self.execute(statement)
            elif len(tables) > TABLES_MAX:
                self.kinds.append("drop_table")
                self.execute(f"DROP TABLE {r.choice(tables)}")
            elif tables:
                table = r.choice(tables)
                (rows,) = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
                if rows > ROWS_MAX:
                    self.execute(f"DELETE FROM {table} WHERE {table.some(rows // 2)}")
                elif rows < ROWS_MIN and not self.shared.rests(table.oid):
                    for _ in range(8):
                        for statement in insert(r, table):
                            self.execute(statement)

        self.transaction(body)

    def run(self, until, rate, alter_rate):
        r = self.random
        next_alter = time.monotonic() + r.expovariate(alter_rate)
        while time.monotonic() < until:
            if time.monotonic() > next_alter:
                self.alter()
                next_alter = time.monotonic() + r.expovariate(alter_rate)
            elif r.random() < 0.03:
                self.keep_in_bounds()
            else:
                def body():
                    for _ in range(r.choice([1, 1, 2])):
                        self.change_rows()
                    return r.random() > 0.05

                self.transaction(body)
            time.sleep(r.expovariate(rate))

    def end(self):
        """Tables that are altered and then left alone."""
        for table in self.tables():
            for change in (choose(self.random, COLUMN_CHANGES) for _ in range(self.random.choice([0, 1, 1, 2]))):
                def body(change=change):
                    now = self.again(table.oid)
                    self.kinds.append(change.__name__)
                    for statement in now and change(self.random, now) or []:
                        if statement:
                            self.execute(statement, now)

                self.transaction(body)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="connection string of an empty database, or one that this has written")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--rate", type=float, default=12, help="transactions per second and connection")
    parser.add_argument("--alter-rate", type=float, default=1.0, help="changes of tables per second, all connections together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=argparse.FileType("a"), help="file for what was committed and what was refused")
    arguments = parser.parse_args()
    shared = Shared(arguments.log)
    writers = [
        Writer(arguments.source, shared, arguments.seed * 100 + i, i) for i in range(arguments.connections)
    ]
    for name in TABLE_NAMES[:TABLES_MIN + 1] if not writers[0].tables() else ():
        def body(name=name):
            for statement in create(writers[0].random, name):
                writers[0].execute(statement)

        assert writers[0].transaction(body), shared.unexpected or shared.refused
    print("ready", flush=True)

    until = time.monotonic() + arguments.seconds
    failed = []
    threading.excepthook = lambda failure: (failed.append(failure), sys.__excepthook__(*failure[:3]))
    threads = [
        threading.Thread(target=w.run, args=(until, arguments.rate, arguments.alter_rate / len(writers))) for w in writers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writers[0].end()
    for title, counts in (("committed", shared.committed), ("refused", shared.refused)):
        print(f"{title}:", ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())))
    print("".join(f"unexpected: {problem}\n" for problem in shared.unexpected[:5]), end="")
    sys.exit(bool(failed or shared.unexpected))


if __name__ == "__main__":
    main()
