"""Places in a source's log, as Tributary writes them."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Lsn:
    """`16/B374D848`"""

    number: int

    def covers(self, other) -> bool:
        return self.number >= other.number


@dataclass(frozen=True)
class Binlog:
    """`gtids@server:file:offset`"""

    gtids: str
    server: str
    file: int
    offset: int

    def covers(self, other) -> bool:
        """Everything up to `other` lies at or before this."""
        if self.server == other.server:
            return (self.file, self.offset) >= (other.file, other.offset)
        return all(self.has(*transaction) for transaction in other.transactions())

    def is_mariadb(self) -> bool:
        return "-" not in self.server

    def transactions(self) -> list[tuple[str, int, int]]:
        """Name, first and last number of what is before this position."""
        found = []
        for source in filter(None, self.gtids.split(",")):
            if self.is_mariadb():
                domain, _, number = source.split("-")
                found.append((domain, 1, int(number)))
                continue
            uuid, *parts = source.split(":")
            name = uuid
            for part in parts:
                if part[0].isdigit():
                    first, _, last = part.partition("-")
                    found.append((name, int(first), int(last or first)))
                else:
                    name = f"{uuid}:{part}"
        return found

    def has(self, name: str, first: int, last: int) -> bool:
        return any(n == name and f <= first and last <= l for n, f, l in self.transactions())

    def has_gtid(self, gtid: str) -> bool:
        """`gtid` is one transaction's, as the server tells it at commit."""
        if self.is_mariadb():
            domain, _, number = gtid.split("-")
            return self.has(domain, int(number), int(number))
        name, number = gtid.rsplit(":", 1)
        return self.has(name, int(number), int(number))


@dataclass(frozen=True)
class ClusterTime:
    """`seconds.increment+token`: all of that cluster time; `seconds.increment-token`: of it only what is up to the
    resume token."""

    time: tuple[int, int]
    whole: bool
    token: str

    def covers(self, other) -> bool:
        return (self.time, self.whole, self.token) >= (other.time, other.whole, "" if other.whole else other.token)


def parse(text: str) -> Lsn | Binlog | ClusterTime:
    if "@" in text:
        gtids, place = text.rsplit("@", 1)
        server, file, offset = place.split(":")
        return Binlog(gtids, server, int(file.rsplit(".", 1)[1]), int(offset))
    if "/" not in text:
        time, sign, token = re.fullmatch(r"(\d+\.\d+)(?:([+-])([0-9A-Fa-f~]*)(?:![0-9a-f]*)?)?", text).groups(default="")
        seconds, increment = time.split(".")
        return ClusterTime((int(seconds), int(increment)), sign != "-", token)
    high, low = text.split("/")
    return Lsn(int(high, 16) << 32 | int(low, 16))


def of_gtids(gtids: str) -> Binlog:
    """A position that is known by its transactions alone."""
    return Binlog(gtids, "0-0" if ":" in gtids else "0", 0, 0)
