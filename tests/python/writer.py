"""Runs transactions again and again until standard input ends. Prints a line when the first round is done.

Statements of a transaction are divided by `;`. `{i}` is the round, `{k}` a random number of the round.
"""

import argparse
import random
import select
import sys

import source

# The server asks to begin again: another transaction or a change of the table came between.
AGAIN = {1020, 1205, 1213, 1412}


def transact(connection, statements):
    while True:
        connection.execute("BEGIN")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute("COMMIT")
            return
        except Exception as error:
            if not error.args or error.args[0] not in AGAIN:
                raise
            connection.execute("ROLLBACK")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="connection string of the database")
    parser.add_argument("--keys", type=int, required=True, help="{k} is from 1 to this")
    parser.add_argument("--pause-ms", type=int, default=0)
    parser.add_argument("transactions", nargs="+")
    arguments = parser.parse_args()
    connection = source.connect(arguments.source)
    i = 0
    while True:
        i += 1
        k = random.randint(1, arguments.keys)
        for text in arguments.transactions:
            transact(connection, list(filter(str.strip, text.format(i=i, k=k).split(";"))))
        if i == 1:
            print("ready", flush=True)
        readable, _, _ = select.select([sys.stdin], [], [], arguments.pause_ms / 1000)
        if readable and not sys.stdin.read(1):
            return


if __name__ == "__main__":
    main()
