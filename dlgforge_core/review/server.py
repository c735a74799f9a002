"""Server of the review page: where it listens, and the address that it prints."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

import uvicorn

from dlgforge_core.common.hosts import is_loopback
from dlgforge_core.database.database import Database
from dlgforge_core.errors import ConfigError
from dlgforge_core.review import HOST, PORT
from dlgforge_core.review.access import TOKEN, Keys
from dlgforge_core.review.pages import review_app
from dlgforge_core.review.sessions import ReviewState


def serve(
    database: Database,
    host: str = HOST,
    port: int = PORT,
    *,
    on_ready: Callable[[str], None],
    env: Mapping[str, str] = os.environ,
    server_made: Callable[[uvicorn.Server], None] = lambda server: None,
) -> None:
    """Serve the page until SIGINT or SIGTERM; `on_ready` is told its address, which holds the token.

    `port` 0: any that is free. Raises ConfigError when the address cannot be had, and StoreError.
    """
    keys = Keys()
    database.migrate()
    with _listening(host, port) as listener:
        name = host if not is_loopback(host) or host in ("::1", "localhost") else "127.0.0.1"
        number = listener.getsockname()[1]
        # Not the access log: it would have the token.
        config = uvicorn.Config(
            review_app(ReviewState(database), keys, env),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        server = uvicorn.Server(config)
        server_made(server)
        on_ready(f"http://{f'[{name}]' if ':' in name else name}:{number}/?{TOKEN}={keys.token}")
        server.run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"the page cannot listen on {host}, port {port}: {error}; choose another by --port, or 0 for any"
        ) from None
    return listener
