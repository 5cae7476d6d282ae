"""A random workload on collections of a database: `docs` and `more` with documents of every kind, `accounts_a` and
`accounts_b` whose transactions keep what mongo_history.py looks for: the sum of all balances, and counters `n` that
only grow.

Prints `ready` when the collections exist and hold their first documents; it goes on until --seconds are over or
standard input ends.
"""

import argparse
import random
import select
import sys
import threading
import time

from bson import Int64
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

import mongo
from mongo_documents import IDS, REFUSED, Documents

ACCOUNTS, BALANCE = 40, 1000
ACCOUNT_NAMES = ["accounts_a", "accounts_b"]
DOCUMENTS_MIN, DOCUMENTS_MAX = 100, 500
TRANSIENT = "TransientTransactionError"


def create(db, documents):
    for name in ACCOUNT_NAMES:
        db[name].insert_many({"_id": i, "balance": BALANCE, "n": 0} for i in range(ACCOUNTS))
    for name, source in documents.items():
        made = {repr(d["_id"]): d for d in (source.document() for _ in range(DOCUMENTS_MIN))}
        db[name].insert_many(made.values())


def transfer(r, collection, session):
    """Moves money; now and then an account ends, and another one begins with what it had."""
    one, two = r.sample([a["_id"] for a in collection.find({}, {"_id": 1}, session=session)], 2)
    amount = r.randint(1, 50)
    match r.randrange(10):
        case 0:
            ended = collection.find_one_and_delete({"_id": one}, session=session)
            collection.insert_one({"_id": Int64(r.getrandbits(50) + ACCOUNTS), "balance": ended["balance"], "n": 0}, session=session)
        case 1:
            for key, change in ((one, -amount), (two, amount)):
                account = collection.find_one({"_id": key}, session=session)
                changed = {"balance": account["balance"] + change, "n": account["n"] + 1, "note": "x" * r.randrange(100)}
                collection.replace_one({"_id": key}, changed, session=session)
        case _:
            for key, change in ((one, -amount), (two, amount)):
                collection.update_one({"_id": key}, {"$inc": {"balance": change, "n": 1}}, session=session)


class Load:
    def __init__(self, arguments):
        # The server cuts the values in its messages anywhere.
        lenient = {"unicode_decode_error_handler": "replace"}
        self.client = mongo.connect(arguments.url, **lenient)
        options = mongo.LOSSLESS.with_options(**lenient)
        self.db = self.client.get_database(arguments.database, options, write_concern=WriteConcern("majority"))
        self.seed, self.done = arguments.seed, {}
        self.documents = {n: Documents(arguments.seed * 10 + i, arguments.ids) for i, n in enumerate(["docs", "more"])}
        self.ended = threading.Event()

    def loop(self, name, step, rate):
        """Steps until the end. A primary that goes away is waited for; what the server refuses is not done."""
        r = random.Random(f"{self.seed}{name}")
        self.done[name] = 0
        while not self.ended.wait(r.expovariate(rate)):
            try:
                step(r)
                self.done[name] += 1
            except REFUSED:
                pass
            except ConnectionFailure:
                self.ended.wait(0.05)

    def in_transaction(self, r, work):
        with self.client.start_session() as session:
            session.start_transaction(ReadConcern("snapshot"), WriteConcern("majority"))
            work(session)
            if r.random() < 0.1:
                session.abort_transaction()
            else:
                session.commit_transaction()

    def accounts(self, r):
        if r.random() < 0.02:
            self.db[r.choice(ACCOUNT_NAMES)].update_many({}, {"$inc": {"n": 1}})
        names = [r.choice(ACCOUNT_NAMES)] if r.random() < 0.3 else ACCOUNT_NAMES
        self.in_transaction(r, lambda session: [transfer(r, self.db[name], session) for name in names])

    def change(self, name):
        collection, documents = self.db[name], self.documents[name]

        def step(r):
            if r.random() < 0.05:
                count = collection.estimated_document_count()
                if count > DOCUMENTS_MAX:
                    collection.delete_many({"_id": {"$in": documents.random.sample(documents.known, 200)}})
                elif count < DOCUMENTS_MIN:
                    collection.insert_many([documents.document() for _ in range(50)], ordered=False)
            documents.change(collection)

        return step

    def both(self, documents):
        """Transactions over both collections of documents."""
        collections = [self.db["docs"], self.db["more"]]

        def step(r):
            def work(session):
                for _ in range(r.choice([1, 2, 5])):
                    documents.change(r.choice(collections), session)

            self.in_transaction(r, work)

        return step

    def big(self, r):
        key = f"big{r.randrange(3)}"
        pad = r.randbytes(1000).hex() * r.randrange(500, 3000)
        match r.randrange(3):
            case 0:
                self.db["big"].replace_one({"_id": key}, {"pad": pad, "n": 0}, upsert=True)
            case 1:
                self.db["big"].update_one({"_id": key}, {"$inc": {"n": 1}, "$set": {"inner.pad": pad}}, upsert=True)
            case 2:
                self.db["big"].delete_one({"_id": key})

    def run(self, seconds, ids):
        create(self.db, self.documents)
        self.db["big"].insert_one({"_id": "big0", "pad": "x" * 2_000_000, "n": 0})
        print("ready", flush=True)
        own = Documents(self.seed * 10 + 5, ids)
        own.fresh, own.known = 10**6, [own.make_id(own.random, 1)]
        failed = []
        threading.excepthook = lambda failure: (failed.append(failure), sys.__excepthook__(*failure[:3]))
        steps = {
            "docs": (self.change("docs"), 40), "more": (self.change("more"), 40), "both": (self.both(own), 10),
            "accounts": (self.accounts, 25), "big": (self.big, 0.5),
        }  # fmt: skip
        threads = [threading.Thread(target=self.loop, args=(name, *step)) for name, step in steps.items()]
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            readable, _, _ = select.select([sys.stdin], [], [], left)
            if readable and not sys.stdin.read(1):
                break
        self.ended.set()
        for thread in threads:
            thread.join()
        print(self.done, file=sys.stderr)
        return not failed and all(self.done[name] for name in ("docs", "more", "accounts"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--database", required=True, help="one that is empty")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--ids", choices=list(IDS), default="objectId")
    arguments = parser.parse_args()
    sys.exit(not Load(arguments).run(arguments.seconds, arguments.ids))


if __name__ == "__main__":
    main()
