"""The way from this machine to a node's API server: `python -m sandbox._forward PORT PID ADDRESS PORT`.

It listens on 127.0.0.1 of this machine and connects from inside the network of process PID, without any interface between the
two: a socket stays in the network that it was made in.
"""

import asyncio
import contextlib
import socket
import sys

from sandbox._namespaces import enter_network_of

__all__ = ["main"]

_CHUNK = 65536


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


async def _serve(listener: socket.socket, address: str, port: int) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                there_reader, there_writer = await asyncio.open_connection(address, port)
            except OSError:
                return
            with contextlib.closing(there_writer):
                await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))

    server = await asyncio.start_server(forward, sock=listener)
    await server.serve_forever()


def main() -> None:
    """Run as a program."""
    port, pid, address, target = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # the keeper holds the port for us
        listener.bind(("127.0.0.1", port))
        enter_network_of(pid)
        asyncio.run(_serve(listener, address, target))


if __name__ == "__main__":
    main()
