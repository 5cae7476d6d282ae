"""What Python offers for the same jobs, each in a process of its own, so that its
time and peak memory can be measured from outside. Prints one JSON object.

    python_tools.py adbc       URL TABLE DESTINATION   fetch_record_batch -> write_deltalake
    python_tools.py connectorx URL TABLE DESTINATION   read_sql(arrow) -> write_deltalake
    python_tools.py merge      URL TABLE DESTINATION REPEATS ROWS
        DeltaTable.merge of ROWS random updated rows, REPEATS times; DESTINATION is
        a table that `adbc` wrote
    python_tools.py replication SOCKET FILE:OFFSET      mysql-replication: every row of MySQL's binlog from there on,
        to its end
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


JOBS = {"adbc": adbc, "connectorx": connectorx, "merge": merge, "replication": replication}
print(json.dumps(JOBS[sys.argv[1]](*sys.argv[2:])))
