"""Ports that are held for a server to come, so that nobody else is given them meanwhile."""

import socket

__all__ = ["hold_port"]


def hold_port(host: str, port: int) -> socket.socket:
    """A socket that holds the port (0: any free one) without listening; `OSError` when it is taken."""
    # A port that is only looked up and let go may be the local end of anybody's connection when the server wants to listen.
    # One that is bound, without listening, is neither given to connections nor to whoever asks for any port.
    holder = socket.socket()
    try:
        holder.bind((host, port))
    except BaseException:
        holder.close()
        raise
    # Only now: so nobody has the port yet, but who asks for this as well, as servers do, may listen on it beside us.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return holder
