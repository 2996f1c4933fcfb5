"""The floor of a null round over gRPC: raw messages on bare `grpc.aio` bidirectional streams, and nothing else.

A round: the server writes the model to every stream, in messages of 1 MiB; each client, when it has all of it, writes as
many bytes back; the round is over when the server has all of them. Messages are raw bytes made beforehand. With
`--store`, receivers copy each message into a buffer and the server adds what it received to a sum, as a real round would.

python -m tests.benchmarks.floors.grpc_streams --megabytes 100 --ends 8 --rounds 4 --processes 1
"""

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

MESSAGE = 2**20
METHOD = "/floor/Exchange"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Body:
    """The messages of one model, and where received ones go."""

    def __init__(self, nbytes: int, *, store: bool) -> None:
        whole = bytes(MESSAGE)
        self.messages = [whole] * (nbytes // MESSAGE) + ([bytes(nbytes % MESSAGE)] if nbytes % MESSAGE else [])
        self._buffer = memoryview(bytearray(nbytes)) if store else None

    async def write(self, stream: Any) -> None:
        """Write all messages."""
        for message in self.messages:
            await stream.write(message)

    async def read(self, stream: Any) -> memoryview | None:
        """Read all messages of the other side; where they were stored.

        Raises:
            ConnectionError: the stream ended before.
        """
        at = 0
        for _ in self.messages:
            message = await stream.read()
            if message is grpc.aio.EOF:
                raise ConnectionError("the other process ended the stream")
            if self._buffer is not None:
                self._buffer[at : at + len(message)] = message
                at += len(message)
        return self._buffer


class Server:
    """Hosts the streams and counts the rounds."""

    def __init__(self, nbytes: int, ends: int, *, store: bool) -> None:
        self.nbytes = nbytes
        self.store = store
        self._ends = ends
        self._streams: list[Any] = []
        self._joined = asyncio.Event()
        self._over = asyncio.Event()
        self._bodies = [Body(nbytes, store=store) for _ in range(ends)]
        self._total: Any = None

    async def exchange(self, _: AsyncIterator[bytes], context: Any) -> None:
        """Handler of one stream: keeps it open until the end."""
        self._streams.append(context)
        if len(self._streams) == self._ends:
            self._joined.set()
        await self._over.wait()

    async def rounds(self, count: int) -> list[float]:
        """Seconds of each round."""
        await self._joined.wait()
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            await asyncio.gather(*(self._one(stream, body) for stream, body in zip(self._streams, self._bodies, strict=True)))
            seconds.append(time.perf_counter() - began)
        self._over.set()
        return seconds

    async def _one(self, stream: Any, body: Body) -> None:
        await body.write(stream)
        stored = await body.read(stream)
        if stored is not None:
            import torch

            update = torch.frombuffer(stored, dtype=torch.float32)
            self._total = torch.zeros_like(update) if self._total is None else self._total
            self._total.add_(update, alpha=2.0)


async def serve(given: argparse.Namespace) -> list[float]:
    """Host the streams, start the processes of the clients, measure."""
    nbytes = int(given.megabytes * 2**20) // 4 * 4
    server, host = Server(nbytes, given.ends, store=given.store), grpc.aio.server(options=OPTIONS)
    handler: Any = grpc.stream_stream_rpc_method_handler(server.exchange)
    host.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("floor", {"Exchange": handler}),))
    port = host.add_insecure_port("127.0.0.1:0")
    await host.start()
    share = math.ceil(given.ends / given.processes)
    words = ["-m", "tests.benchmarks.floors.grpc_streams", *sys.argv[1:], "--port", str(port), "--share"]
    starts = range(0, given.ends, share)
    clients = [
        await asyncio.create_subprocess_exec(sys.executable, *words, str(min(share, given.ends - start))) for start in starts
    ]
    seconds = await server.rounds(given.rounds)
    for client in clients:
        await client.wait()
    await host.stop(None)
    return seconds


async def be_ends(given: argparse.Namespace) -> None:
    """Be some of the ends, all in this process, until the server ends the streams."""
    nbytes = int(given.megabytes * 2**20) // 4 * 4

    async def one() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{given.port}", options=OPTIONS) as channel:
            stream: Any = channel.stream_stream(METHOD)()
            body = Body(nbytes, store=given.store)
            for _ in range(given.rounds):
                await body.read(stream)
                await body.write(stream)
            await stream.read()

    await asyncio.gather(*(one() for _ in range(given.share)))


def main() -> None:
    """Measure and print a JSON list: the seconds of each round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--ends", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--processes", type=int, default=1, help="how many processes share the ends")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.port is not None:
        asyncio.run(be_ends(given))
    else:
        print(json.dumps(asyncio.run(serve(given))))


if __name__ == "__main__":
    main()
