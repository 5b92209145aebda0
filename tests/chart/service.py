"""What a Service does where nobody serves Services: one port that leads to whichever backends there are."""

import contextlib
import itertools
import selectors
import socket
import threading

__all__ = ["Service"]


class Service:
    """Forwards connections from a port of 127.0.0.1, each to the next of `backends`, until closed."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self.backends: tuple[int, ...] = ()
        """Ports of 127.0.0.1 that take part now; connections that are there stay."""
        self._turn = itertools.count()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept, name="service")
        self._accepting.start()

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._accepting.join()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), name="service connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        backends = self.backends
        with client, contextlib.suppress(OSError):
            if not backends:
                return
            with socket.create_connection(("127.0.0.1", backends[next(self._turn) % len(backends)]), 5) as server:
                self._open |= {client, server}
                try:
                    _forward(client, server)
                finally:
                    self._open -= {client, server}


def _forward(one: socket.socket, other: socket.socket) -> None:
    """Pass on what either side sends, until either side ends."""
    with selectors.DefaultSelector() as selector:
        for source, target in ((one, other), (other, one)):
            selector.register(source, selectors.EVENT_READ, (source, target))
        while True:
            for key, _ in selector.select():
                source, target = key.data
                data = source.recv(65536)
                if not data:
                    return
                target.sendall(data)
