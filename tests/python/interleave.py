"""Large transactions side by side, many of them rolled back, or parts of them by savepoints. Each writes the rows of
its own connection, in two tables. One column comes and goes within transactions, and some are prepared first.

Prints `ready` when the tables exist, begins with a line of standard input, and ends after --transactions.
"""

import argparse
import random
import sys

import psycopg

CONNECTIONS = 8
# Of keys, for each connection.
RANGE = 1_000_000


class Session:
    """One connection, and the open transaction on it."""

    def __init__(self, url, number, r):
        self.connection = psycopg.connect(url, autocommit=True)
        self.number, self.r = number, r
        self.next, self.savepoints, self.steps, self.altered = 0, [], 0, False
        self.prepares = self.connection.execute("SHOW max_prepared_transactions").fetchone()[0] != "0"

    def run(self, sql):
        self.connection.execute(sql)

    def step(self):
        """One statement or so. Returns whether it was the transaction's last."""
        r, own = self.r, f"id / {RANGE} = {self.number}"
        if self.steps == 0:
            self.run("BEGIN")
            # What goes with the changes that a rollback takes back.
            self.steps, self.savepoints = r.randint(3, 30), []
        self.steps -= 1
        if self.steps == 0:
            self.end()
            return True
        match r.randint(0, 11):
            case 0 | 1 | 2 | 3:
                count, first = r.choice([1, 40, 400, 2000]), self.number * RANGE + self.next
                self.next += count
                for table in ("a", "b"):
                    self.run(
                        f"INSERT INTO {table} SELECT i, {r.randint(0, 99)}, repeat(md5(i::text), {r.randint(1, 4)})"
                        f" FROM generate_series({first}, {first + count - 1}) i"
                    )
            case 4 | 5:
                self.run(f"UPDATE {r.choice('ab')} SET n = n + 1 WHERE {own} AND id % 7 = {r.randint(0, 6)}")
            case 6:
                self.run(f"DELETE FROM {r.choice('ab')} WHERE {own} AND id % 11 = {r.randint(0, 10)}")
            case 7 | 8:
                name = f"s{len(self.savepoints)}"
                self.run(f"SAVEPOINT {name}")
                self.savepoints.append(name)
            case 9 if self.savepoints:
                # Those within go with it.
                at = r.randrange(len(self.savepoints))
                self.run(f"ROLLBACK TO {self.savepoints[at]}")
                del self.savepoints[at + 1 :]
            case 10 if self.savepoints:
                at = r.randrange(len(self.savepoints))
                self.run(f"RELEASE {self.savepoints[at]}")
                del self.savepoints[at:]
            case 11:
                # A table of its own, for nobody else could go on.
                own = f"own{self.number}"
                column = f"c{r.randint(0, 2)}"
                kind = r.choice(["int DEFAULT 7", "text"])
                self.run(f"ALTER TABLE {own} ADD COLUMN IF NOT EXISTS {column} {kind}")
                self.run(f"INSERT INTO {own} SELECT (SELECT coalesce(max(id), 0) FROM {own}) + i FROM generate_series(1, 300) i")
                self.run(f"UPDATE {own} SET {column} = DEFAULT WHERE id % 3 = 0")
                if r.random() < 0.5:
                    self.run(f"ALTER TABLE {own} DROP COLUMN {column}")
        return False

    def end(self):
        commit = self.r.random() < 0.6
        if self.prepares and self.r.random() < 0.4:
            self.run(f"PREPARE TRANSACTION 'p{self.number}'")
            self.run(f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED 'p{self.number}'")
        else:
            self.run("COMMIT" if commit else "ROLLBACK")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="connection string of the database")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--transactions", type=int, required=True)
    arguments = parser.parse_args()
    r = random.Random(arguments.seed)
    sessions = [Session(arguments.source, number, r) for number in range(CONNECTIONS)]
    for table in ["a", "b"]:
        sessions[0].run(f"CREATE TABLE {table} (id bigint PRIMARY KEY, n int, pad text)")
    for number in range(CONNECTIONS):
        sessions[0].run(f"CREATE TABLE own{number} (id bigint PRIMARY KEY)")
    print("ready", flush=True)
    sys.stdin.readline()
    ended = 0
    while ended < arguments.transactions:
        session = r.choice(sessions)
        ended += session.step()
    for session in sessions:
        while session.steps:
            session.step()


if __name__ == "__main__":
    main()
