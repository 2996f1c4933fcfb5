"""The floor of a null round over the network: plain sockets between two processes, and the average.

A round: the aggregator sends the model once for each end, one after the other, by `sendall`; then it receives as many
updates into one buffer by `recv_into` and adds each to a sum in place, with a weight, in one thread; then it divides.
The other process receives into one buffer and sends it back. Nothing is checked, allocated or copied.

python -m tests.benchmarks.floors.tcp --megabytes 100 --ends 8 --rounds 4
"""

import argparse
import json
import os
import socket
import time


def receive(connection: socket.socket, view: memoryview) -> None:
    """Fill `view` from the connection.

    Raises:
        ConnectionError: it ended before.
    """
    while len(view):
        count = connection.recv_into(view)
        if not count:
            raise ConnectionError("the other process closed the connection")
        view = view[count:]


def be_the_ends(address: tuple[str, int], nbytes: int, ends: int, rounds: int) -> None:
    """The process that plays all ends, one after the other."""
    buffer = memoryview(bytearray(nbytes))
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(rounds):
            for _ in range(ends):
                receive(connection, buffer)
            for _ in range(ends):
                connection.sendall(buffer)


def be_the_aggregator(connection: socket.socket, nbytes: int, ends: int, rounds: int) -> list[float]:
    """Seconds of each round."""
    import torch  # after the fork: the other process needs none

    torch.set_num_threads(1)
    model, update, total = (torch.full((nbytes // 4,), 0.5) for _ in range(3))
    outgoing, incoming = (memoryview(each.numpy().data).cast("B") for each in (model, update))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(ends):
            connection.sendall(outgoing)
        for end in range(ends):
            receive(connection, incoming)
            if end == 0:
                torch.mul(update, 2.0, out=total)
            else:
                total.add_(update, alpha=2.0)
        total.div_(2.0 * ends)
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Measure and print a JSON list: the seconds of each round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--ends", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    given = parser.parse_args()
    nbytes = int(given.megabytes * 2**20) // 4 * 4
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = os.fork()
        if child == 0:
            be_the_ends(server.getsockname(), nbytes, given.ends, given.rounds)
            os._exit(0)
        connection, _ = server.accept()
        with connection:
            print(json.dumps(be_the_aggregator(connection, nbytes, given.ends, given.rounds)))
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
