"""The benchmarks' collection in MongoDB, all of it made inside the server, and what they ask that server. Prints one JSON object.

    orders_mongo.py URL load COLLECTION DOCUMENTS            8 fields of mixed types, 158 bytes of BSON
    orders_mongo.py URL update COLLECTION DOCUMENTS UPDATES  sets a field of a random document and increments another one,
        UPDATES times; the last update alone sets `note`, to what is printed as `mark`. `place` is the first operation time that
        can be among them
    orders_mongo.py URL prepare MEBIBYTES                    of cache
    orders_mongo.py URL settle                               writes all to disk
    orders_mongo.py URL status                               what the server has done so far
"""

import json
import sys
import uuid

import pymongo

DATABASE = "bench"
# Fourteen digits are hexadecimal ones too.
ID = {"$toObjectId": {"$concat": ["6500000000", {"$substrCP": [{"$toString": {"$add": [10**14, "$i"]}}, 1, 14]}]}}


def pseudo(factor, modulus):
    return {"$mod": [{"$multiply": ["$i", factor]}, modulus]}


def numbers(count):
    """Documents with an `i` from 0 on."""
    return [
        {"$documents": [{"h": {"$range": [0, count // 1000 + 1]}}]},
        {"$unwind": "$h"},
        {"$set": {"l": {"$range": [0, 1000]}}},
        {"$unwind": "$l"},
        {"$limit": count},
        {"$project": {"i": {"$add": [{"$multiply": ["$h", 1000]}, "$l"]}}},
    ]


def load(client, name, documents):
    # One in 16 has no note.
    note = {"$concat": ["n", {"$toString": pseudo(7_368_787, 999_999_937)}]}
    fields = {
        "_id": ID,
        "customer": {"$toInt": pseudo(7919, 200_003)},
        "price": {"$divide": [pseudo(104_729, 100_003), 100]},
        "placed_at": {"$add": [{"$toDate": 946_684_800_000}, {"$multiply": ["$i", 17_000]}]},
        "state": {"$arrayElemAt": [["new", "paid", "shipped", "returned"], {"$mod": ["$i", 4]}]},
        "note": {"$cond": [{"$eq": [{"$mod": ["$i", 16]}, 2]}, "$$REMOVE", note]},
        "attributes": {"k": {"$mod": ["$i", 100]}, "tag": {"$concat": ["t", {"$toString": pseudo(31, 1009)}]}},
        "revision": {"$literal": 0},
    }
    client[DATABASE].aggregate([*numbers(int(documents)), {"$project": fields}, {"$out": name}])
    return {"documents": client[DATABASE][name].estimated_document_count()}


def update(client, name, documents, updates):
    place = client.admin.command("ping")["operationTime"]
    changes = [
        *numbers(int(updates) - 1),
        {"$set": {"i": {"$toLong": {"$floor": {"$multiply": [{"$rand": {}}, int(documents)]}}}}},
        {"$project": {"_id": ID, "price": {"$divide": [{"$floor": {"$multiply": [{"$rand": {}}, 100_000]}}, 100]}}},
    ]
    # The log has it as {$set: {price: …}, $inc: {revision: 1}}.
    matched = [{"$set": {"price": "$$new.price", "revision": {"$add": ["$revision", 1]}}}]
    client[DATABASE].aggregate([*changes, {"$merge": {"into": name, "whenMatched": matched, "whenNotMatched": "fail"}}])
    mark = uuid.uuid4().hex
    client[DATABASE][name].update_one({}, {"$set": {"note": mark}})
    return {"place": f"{place.time}.{place.inc + 1}", "mark": mark}


def prepare(client, mebibytes):
    client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig=f"cache_size={mebibytes}M")
    return {"version": client.server_info()["version"]}


def settle(client):
    client.admin.command("fsync")
    return {}


def status(client):
    answer = client.admin.command("serverStatus")
    return {
        "queries": answer["opcounters"]["query"],
        "getmores": answer["opcounters"]["getmore"],
        "documents_returned": answer["metrics"]["document"]["returned"],
        # Those of `updateLookup` are no queries to the server.
        "lookups_by_id": answer["indexStats"]["features"]["id"]["accesses"],
        "bytes_sent": answer["network"]["bytesOut"],
    }


JOBS = {"load": load, "update": update, "prepare": prepare, "settle": settle, "status": status}
url, job, *arguments = sys.argv[1:]
print(json.dumps(JOBS[job](pymongo.MongoClient(url), *arguments)))
