"""Compares the benchmarks' table at a MySQL server with its Delta table: rows counted, and a checksum of all of them.

    compare_mysql.py CLIENT SOCKET DATABASE TABLE DELTA_TABLE      exits with 1 if they differ
"""

import hashlib
import subprocess
import sys

from deltalake import DeltaTable, QueryBuilder

# A row as one text: at the source, and in the lake.
SOURCE = """concat_ws('|', id, customer, quantity, price, timestampdiff(MICROSECOND, '1970-01-01', placed_at), paid, coalesce(score, '~'),
    hex(token), state, coalesce(note, '~'), coalesce(attributes, '~'), revision)"""
LAKE = r"""concat_ws('|', id, customer, quantity, price, cast(placed_at as bigint), paid, coalesce(regexp_replace(cast(score as varchar), '\.0$', ''), '~'),
    upper(encode(token, 'hex')), state, coalesce(note, '~'), coalesce(attributes, '~'), revision)"""


def source_summary(client, socket, database, table):
    checksum = f"sum(cast(conv(left(sha2({SOURCE}, 256), 14), 16, 10) AS decimal(20)))"
    sql = f"SET time_zone = '+00:00'; SELECT count(*), {checksum} FROM {table}"
    command = [client, "--no-defaults", "--user=root", f"--socket={socket}", "--batch", "--skip-column-names", database, "-e", sql]
    rows, total = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.split()
    return int(rows), int(total)


def lake_summary(delta):
    rows = total = 0
    for batch in QueryBuilder().register("t", DeltaTable(delta)).execute(f"SELECT {LAKE} AS r FROM t"):
        texts = batch.column(0).to_pylist()
        rows += len(texts)
        total += sum(int(hashlib.sha256(text.encode()).hexdigest()[:14], 16) for text in texts)
    return rows, total


def main():
    client, socket, database, table, delta = sys.argv[1:]
    source, lake = source_summary(client, socket, database, table), lake_summary(delta)
    print(f"{table}: source {source}, lake {lake}", "equal" if source == lake else "DIFFERENT")
    sys.exit(source != lake)


main()
