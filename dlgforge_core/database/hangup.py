"""Notices that the server has ended a connection on which nothing runs just now."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class HangupWatch:
    """Calls `on_hangup` once when the other side of a socket has hung up, though nobody reads from it.

    Where the system has no epoll it does nothing: the next one who uses the connection notices then. Belongs
    to the running event loop; `close` before the socket is closed.
    """

    def __init__(self, fd: int, on_hangup: Callable[[], None]) -> None:
        self._on_hangup = on_hangup
        self._epoll: select.epoll | None = None
        if not hasattr(select, "epoll"):
            return
        # An epoll of its own: the loop would report data as well, and the connection itself waits for those.
        self._epoll = select.epoll()
        self._epoll.register(fd, select.EPOLLRDHUP)  # errors are always reported
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self.look)

    def look(self) -> None:
        """Look now: the loop comes to it only between other work."""
        if self._epoll is not None and self._epoll.poll(0):
            self.close()
            self._on_hangup()

    def close(self) -> None:
        """Watch no more; doing so twice does no harm."""
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
