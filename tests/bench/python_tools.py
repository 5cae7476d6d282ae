"""What Python offers for the same jobs, each in a process of its own, so that its
time and peak memory can be measured from outside. Prints one JSON object.

    python_tools.py adbc       URL TABLE DESTINATION   fetch_record_batch -> write_deltalake
    python_tools.py connectorx URL TABLE DESTINATION   read_sql(arrow) -> write_deltalake
    python_tools.py merge      URL TABLE DESTINATION REPEATS ROWS
        DeltaTable.merge of ROWS random updated rows, REPEATS times; DESTINATION is
        a table that `adbc` wrote
    python_tools.py scan       URL COLUMN REPEATS DESTINATION...
        opening Delta tables that have the same rows, and the sum of a column: by deltalake's SQL, and by DuckDB;
        medians of REPEATS after one to warm up, in turns; milliseconds, and those of a processor; the server is
        not asked
    python_tools.py follow     URL DESTINATION COLUMN SECONDS
        looks for newer versions of a Delta table all the time, and how old the rows of each are that it brought, by the
        clock that the server wrote into COLUMN; seconds, and milliseconds of the reader itself; the server is not asked
    python_tools.py replication SOCKET FILE:OFFSET      mysql-replication: every row of MySQL's binlog from there on,
        to its end
    python_tools.py mongo-find URL COLLECTION [raw | batches]
        all documents: as replies that nobody looks into, by `find_raw_batches`, which makes an object of each document
    python_tools.py mongo-stream URL COLLECTION PLACE MARK [raw | plain | lookup]
        a change stream from an operation time to the update that sets `note` to MARK: as replies that nobody looks into,
        by `watch`, by `watch` with `updateLookup`. These two jobs' `seconds` are those from the connection on
"""

import json
import random
import sys
import time


def adbc(url, table, destination):
    import adbc_driver_postgresql.dbapi
    from deltalake import write_deltalake

    with adbc_driver_postgresql.dbapi.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table}")
        write_deltalake(destination, cursor.fetch_record_batch())
    return {}


def connectorx(url, table, destination):
    import connectorx
    from deltalake import write_deltalake

    # Two partitions use two cores; four gained nothing that showed.
    arrow = connectorx.read_sql(url, f"SELECT * FROM {table}", return_type="arrow", partition_on="id", partition_num=2)
    write_deltalake(destination, arrow)
    return {}


def merge(url, table, destination, repeats, rows):
    import adbc_driver_postgresql.dbapi
    from deltalake import DeltaTable

    times_ms = []
    with adbc_driver_postgresql.dbapi.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        total = cursor.fetchone()[0]
        for _ in range(int(repeats)):
            keys = ",".join(str(key) for key in random.sample(range(1, total + 1), int(rows)))
            cursor.execute(f"SELECT * FROM {table} WHERE id IN ({keys})")
            changes = cursor.fetch_arrow_table()
            started = time.perf_counter()
            # Opening the table belongs to the job: every writer sees a new version.
            result = (
                DeltaTable(destination)
                .merge(changes, "t.id = s.id", source_alias="s", target_alias="t")
                .when_matched_update_all()
                .execute()
            )
            times_ms.append((time.perf_counter() - started) * 1000)
            assert result["num_target_rows_updated"] == int(rows), result
    return {"times_ms": times_ms}


def scan(_url, column, repeats, *destinations):
    import pathlib
    import statistics

    import duckdb
    import duckdb_extension_delta
    from deltalake import DeltaTable, QueryBuilder

    connection = duckdb.connect(config={"allow_unsigned_extensions": True})
    extension = pathlib.Path(duckdb_extension_delta.__file__).parent / f"extensions/v{duckdb.__version__}/delta.duckdb_extension"
    connection.execute(f"LOAD '{extension}'")
    def deltalake_open(destination):
        return QueryBuilder().register("t", DeltaTable(destination))

    def deltalake_scan(table):
        return table.execute(f"SELECT sum({column}) AS s FROM t").read_all()["s"][0].as_py()

    def duckdb_open(destination):
        connection.execute(f"ATTACH '{destination}' AS t (TYPE delta, PIN_SNAPSHOT)")
        # The first query opens it.
        connection.execute(f"SELECT {column} FROM t LIMIT 0").fetchall()

    def duckdb_scan(_):
        return connection.execute(f"SELECT sum({column}) FROM t").fetchone()[0]

    readers = {"deltalake": (deltalake_open, deltalake_scan), "duckdb": (duckdb_open, duckdb_scan)}
    times, sums = {}, set()
    for _ in range(int(repeats) + 1):
        for destination in destinations:
            for reader, (open_table, scan_table) in readers.items():
                moments = [(time.perf_counter(), time.process_time())]
                table = open_table(destination)
                moments.append((time.perf_counter(), time.process_time()))
                sums.add(int(scan_table(table)))
                moments.append((time.perf_counter(), time.process_time()))
                for what, begin, end in zip(("open", "scan"), moments, moments[1:]):
                    for unit, one, other in zip(("ms", "cpu_ms"), begin, end):
                        times.setdefault((destination, f"{reader}_{what}_{unit}"), []).append((other - one) * 1000)
            connection.execute("DETACH t")
    assert len(sums) == 1, sums
    medians = {key: statistics.median(all[1:]) for key, all in times.items()}
    return {"lakes": [{name: value for (of, name), value in medians.items() if of == destination} for destination in destinations]}


def follow(_url, destination, column, seconds):
    import statistics

    from deltalake import DeltaTable, QueryBuilder

    def query(sql):
        return QueryBuilder().register("t", table).execute(sql).read_all()

    table = DeltaTable(destination)
    newest = query(f"SELECT cast(max({column}) AS bigint) AS m FROM t")["m"][0].as_py()
    ages, idle_ms, new_ms, blind_ms, versions = [], [], [], 0.0, 0
    last = time.time()
    deadline = time.perf_counter() + float(seconds)
    while time.perf_counter() < deadline:
        begun, version = time.time(), table.version()
        table.update_incremental()
        opened = time.time()
        blind_ms = max(blind_ms, (opened - last) * 1000)
        last = opened
        if table.version() == version:
            idle_ms.append((opened - begun) * 1000)
            time.sleep(0.01)
            continue
        new_ms.append((opened - begun) * 1000)
        versions += 1
        found = query(f"SELECT cast({column} AS bigint) AS at FROM t WHERE cast({column} AS bigint) > {newest}")["at"].to_pylist()
        # Whatever the query took, the version was there to be read when it was opened.
        ages += [opened - micros / 1e6 for micros in found]
        newest = max(found, default=newest)
    ages.sort()
    return {
        "changes": len(ages),
        "versions": versions,
        "p50": statistics.median(ages),
        "p99": ages[int(0.99 * len(ages))],
        "max": ages[-1],
        "open_ms": statistics.median(idle_ms),
        "new_ms": statistics.median(new_ms),
        "blind_ms": blind_ms,
    }


def replication(socket, place):
    from pymysqlreplication import BinLogStreamReader
    from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

    file, offset = place.split(":")
    stream = BinLogStreamReader(
        {"unix_socket": socket, "user": "root", "passwd": ""},
        server_id=4711,
        log_file=file,
        log_pos=int(offset),
        resume_stream=True,
        only_events=[DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent],
        # It takes bytes for text unless the log describes columns whole.
        ignore_decode_errors=True,
    )
    return {"rows": sum(len(event.rows) for event in stream)}


def replies(url, name, command, end):
    """A cursor's replies, as bytes or views of bytes, up to the one that has `end` near its end."""
    import bson
    import pymongo

    # Such a document reads its fields when it is asked for one, and those of the documents in it later.
    raw = bson.codec_options.CodecOptions(bson.raw_bson.RawBSONDocument)
    client = pymongo.MongoClient(url)
    with client.start_session() as session:
        cursor = client["bench"].command(command, session=session)["cursor"]["id"]
        more = {"getMore": bson.Int64(cursor), "collection": name}
        reply = b""
        while end not in bytes(reply[-2000:]):
            reply = client["bench"].command(more, session=session, codec_options=raw)["cursor"].raw
            yield reply


def mongo_find(url, name, kind):
    import pymongo

    started = time.perf_counter()
    if kind == "raw":
        # The last reply tells 0 for the cursor.
        batches = replies(url, name, {"find": name, "batchSize": 0}, b"\x12id\0" + bytes(8))
    else:
        batches = pymongo.MongoClient(url)["bench"][name].find_raw_batches()
    size = sum(map(len, batches))
    return {"seconds": time.perf_counter() - started, "bytes": size}


def mongo_stream(url, name, place, mark, kind):
    import bson
    import pymongo

    started = time.perf_counter()
    begin = bson.Timestamp(*map(int, place.split(".")))
    events = size = 0
    if kind == "raw":
        stream = {"$changeStream": {"startAtOperationTime": begin}}
        size = sum(map(len, replies(url, name, {"aggregate": name, "pipeline": [stream], "cursor": {"batchSize": 0}}, mark.encode())))
    else:
        lookup = {"full_document": "updateLookup"} if kind == "lookup" else {}
        for event in pymongo.MongoClient(url)["bench"][name].watch(start_at_operation_time=begin, **lookup):
            events += 1
            if event["updateDescription"]["updatedFields"].get("note") == mark:
                break
    return {"seconds": time.perf_counter() - started, "events": events, "bytes": size}


JOBS = {"adbc": adbc, "connectorx": connectorx, "merge": merge, "scan": scan, "follow": follow, "replication": replication, "mongo-find": mongo_find, "mongo-stream": mongo_stream}
print(json.dumps(JOBS[sys.argv[1]](*sys.argv[2:])))
