"""Checks every version of the lake's tables of mongo_workload.py: one whose state is `streaming` has accounts whose
balances add up to what they always do, and no counter that was greater in a version before it.

The oracle reads every version, deltalake a sample of them.
"""

import argparse

import lake
from mongo_compare import from_row, key_of, kinds, rows
from mongo_values import number
from mongo_workload import ACCOUNT_NAMES, ACCOUNTS, BALANCE

SHOWN = 3


def accounts(table, snapshot) -> tuple[dict, list[str]]:
    """_id → balance and counter."""
    found, problems, columns = {}, [], kinds(snapshot)
    for row in rows(table, snapshot.columns()):
        document, wrong = from_row(row, columns)
        key, fields = key_of(document), document[1]
        if key in found:
            wrong.append("is doubled")
        found[key] = tuple(plain(fields[name]) for name in ("balance", "n"))
        problems += [f"{key}: {problem}" for problem in wrong]
    return found, problems


def plain(value) -> int:
    return int(value[2] if value[0] == "number" else number(value))


def check(root, sample: int) -> tuple[int, list[str]]:
    """The number of streaming versions, and what is wrong with them."""
    table, snapshot, problems = lake.Table(root), lake.Snapshot(), []
    counters, versions = {}, []
    for version in table.versions():
        snapshot.apply(table.commit(version))
        if snapshot.state().get("state") != "streaming":
            continue
        versions.append(version)
        content, wrong = accounts(table.read(version), snapshot)
        total = sum(balance for balance, _ in content.values())
        if total != ACCOUNTS * BALANCE or len(content) != ACCOUNTS:
            wrong.append(f"{len(content)} accounts with {total} in all, expected {ACCOUNTS} with {ACCOUNTS * BALANCE}")
        for key, (_, n) in content.items():
            if n < counters.get(key, 0):
                wrong.append(f"{key}: the counter went back from {counters[key]} to {n}")
            counters[key] = n
        problems += [f"version {version} at {snapshot.state()['watermark']:.40}: {w}" for w in wrong]
    for version in versions[:: max(1, len(versions) // sample)]:
        snapshot = table.snapshot(version)
        left, right = (accounts(t, snapshot) for t in (table.read(version), lake.read_deltalake(root, version)))
        if left != right:
            problems.append(f"version {version}: the readers differ")
    return len(versions), problems


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lake", required=True, help="the lake's directory")
    parser.add_argument("--database", required=True, help="the workload's database")
    parser.add_argument("--sample", type=int, default=20, help="versions of each table that deltalake reads")
    parser.add_argument("--versions-min", type=int, default=10, help="streaming versions each table must have")
    arguments = parser.parse_args()
    right, directories = True, lake.tables(arguments.lake)
    for name in ACCOUNT_NAMES:
        versions, problems = check(directories[f"{arguments.database}.{name}"], arguments.sample)
        if versions < arguments.versions_min:
            problems.append(f"only {versions} versions are streaming")
        print(f"{name}: {versions} streaming versions,", len(problems), "wrong")
        print("".join(f"  {p:.800}\n" for p in problems[:SHOWN]), end="", flush=True)
        right &= not problems
    return right


if __name__ == "__main__":
    lake.leave(main())
