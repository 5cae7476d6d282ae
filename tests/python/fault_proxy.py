"""A proxy in front of an HTTP server that fails as it is told.

Requests go on as they came, `Host` included, so that signatures stay valid. Prints its own port and that of its
control, then serves until standard input ends. The control takes one line of JSON a connection, and answers with one:

    {"rules": [RULE, …]}      from now on; a rule is for requests whose `METHOD /path?query` matches
    {"counts": true}          how often each of the rules has been applied

    RULE = {"match": REGEX, "do": ACTION, …}   and if wanted
           "times": N         only the next N times
           "skip": N          not the first N times
           "share": 0.1       only this part of them, at random
    ACTION: "answer"          with "status" and "body"; the server does not learn of the request
            "refuse"          the connection is closed; the server does not learn of the request
            "cut"             the server's answer is thrown away and the connection closed
            "swallow"         the server's answer is thrown away, and the client waits in vain
            "slow"            "delay" seconds before the request, "bytes_per_s" both ways
            "accept"          a 412 becomes a 200, as if there was no condition
"""

import argparse
import asyncio
import json
import random
import re
import sys
from urllib.parse import urlsplit

PIECE = 16 << 10


class Proxy:
    def __init__(self, upstream: str, seed: int):
        address = urlsplit(upstream)
        self.upstream = (address.hostname, address.port)
        self.rules, self.random = [], random.Random(seed)
        # A loop keeps its tasks weakly: one whose client has gone would be lost with its request on the way.
        self.tasks = set()

    def set_rules(self, rules: list[dict]) -> None:
        self.rules = [{**rule, "pattern": re.compile(rule["match"]), "seen": 0, "applied": 0, "done": 0} for rule in rules]

    def rule_for(self, request: str) -> dict:
        """The first rule that is for a request of now."""
        for rule in self.rules:
            if not rule["pattern"].search(request) or rule["applied"] >= rule.get("times", float("inf")):
                continue
            rule["seen"] += 1
            if rule["seen"] > rule.get("skip", 0) and self.random.random() < rule.get("share", 1):
                rule["applied"] += 1
                return rule
        return {"do": "pass"}

    async def serve(self, client_reader, client_writer) -> None:
        task = asyncio.current_task()
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        try:
            while await self.exchange(client_reader, client_writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            client_writer.close()

    async def exchange(self, client_reader, client_writer) -> bool:
        """One request and its answer. Returns whether the connection stays."""
        head = await read_head(client_reader)
        if not head:
            return False
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        # The body is here before the rule is looked for: one that is set meanwhile is for this request, too.
        body = await read_body(head, client_reader, method)
        rule = self.rule_for(f"{method} {target}")
        rate = rule.get("bytes_per_s")
        match rule["do"]:
            case "refuse":
                return False
            case "answer":
                await self.send(client_writer, answer(rule["status"], rule.get("body", "")))
                return True
            case "slow":
                await asyncio.sleep(rule.get("delay", 0))
        server_reader, server_writer = await asyncio.open_connection(*self.upstream)
        try:
            await self.send(server_writer, head + body, rate)
            answer_head = await read_head(server_reader)
            answer_body = await read_body(answer_head, server_reader, method, is_answer=True)
        finally:
            server_writer.close()
        rule["done"] = rule.get("done", 0) + 1
        match rule["do"]:
            case "cut":
                return False
            case "swallow":
                # Until the client gives up.
                await client_reader.read(1)
                return False
            case "accept" if b" 412 " in answer_head.split(b"\r\n", 1)[0]:
                await self.send(client_writer, answer(200, "", 'ETag: "accepted"\r\n'))
                return True
        await self.send(client_writer, answer_head + answer_body, rate)
        return b"connection: close" not in answer_head.lower()

    async def send(self, writer, data: bytes, rate: int | None = None) -> None:
        for at in range(0, len(data), PIECE) if rate else [None]:
            piece = data if at is None else data[at : at + PIECE]
            writer.write(piece)
            await writer.drain()
            if rate:
                await asyncio.sleep(len(piece) / rate)

    async def control(self, reader, writer) -> None:
        command = json.loads(await reader.readline())
        if "rules" in command:
            self.set_rules(command["rules"])
        counts = [rule[command.get("count", "applied")] for rule in self.rules]
        writer.write(json.dumps(counts).encode() + b"\n")
        await writer.drain()
        writer.close()


async def read_head(reader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return b""


async def read_body(head: bytes, reader, method: str, is_answer: bool = False) -> bytes:
    lines = head.lower().split(b"\r\n")
    headers = dict(line.split(b":", 1) for line in lines[1:] if b":" in line)
    if is_answer and (method == "HEAD" or lines[0].split()[1] in (b"204", b"304")):
        return b""
    if b"chunked" in headers.get(b"transfer-encoding", b""):
        chunks = []
        while True:
            size = await reader.readline()
            chunks += [size, await reader.readexactly(int(size.split(b";")[0], 16) + 2)]
            if int(size.split(b";")[0], 16) == 0:
                return b"".join(chunks)
    return await reader.readexactly(int(headers.get(b"content-length", b"0")))


def answer(status: int, body: str, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} -\r\n{headers}Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()


async def run(upstream: str, seed: int) -> None:
    proxy = Proxy(upstream, seed)
    limit = 1 << 20
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=limit)
    control = await asyncio.start_server(proxy.control, "127.0.0.1", 0, limit=limit)
    print(server.sockets[0].getsockname()[1], control.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True, help="http://host:port")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.upstream, arguments.seed))
