"""Makes a folder equal to a prefix of a bucket, fetching only what is new: objects of a lake do not change, but for
`_last_checkpoint`.

A table's log is listed before its files, so that what an entry of the copy names is in the copy.
"""

import argparse
import os
from pathlib import Path

import pyarrow.fs as fs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prefix", help="s3://bucket/prefix")
    parser.add_argument("folder")
    arguments = parser.parse_args()
    # The key is in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    store = fs.S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1")
    prefix, folder = arguments.prefix.removeprefix("s3://").rstrip("/"), Path(arguments.folder)
    wanted = {}
    for found in store.get_file_info(fs.FileSelector(prefix, recursive=True, allow_not_found=True)):
        if found.type == fs.FileType.File:
            wanted[folder / found.path.removeprefix(f"{prefix}/")] = found
    for path in folder.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()
    for path, found in wanted.items():
        if path.name != "_last_checkpoint" and path.exists() and path.stat().st_size == found.size:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with store.open_input_stream(found.path) as source:
                path.write_bytes(source.read())
        except FileNotFoundError:
            pass  # Removed just now.


if __name__ == "__main__":
    main()
