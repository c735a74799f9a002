"""A simulated OpenAI-compatible endpoint, in a process of its own, for tests and benches.

    with simulated_endpoint(latency_s=0.05, slots=8, faults={"429": 0.02}) as sim:
        ... calls to sim.base_url ...
        sim.configure(down=True)
        sim.stats()["faults"]

Or `python -m tests.support.simulated_endpoint --port 0 --options '{"slots": 8}'`: it prints one line of
JSON with its port once it listens, on loopback or `--host`, and ends when its stdin closes, its starter
dies, or on SIGTERM. The options are the fields of `tests.support.simulated.options.Options`.

Routes, below `base_url`:

- `POST /chat/completions`: a question, an answer or a verdict, by what the messages ask for. Requests that
  offer tools are answered as the option `tool_calls` says: "ignored" (text), "once" (a tool call, then text
  once the last message is a tool's result), "always", "refused" (400, in vLLM's words), or "unreadable"
  (500, in llama.cpp's). Which tool, and with what arguments, depends on the messages; the argument `query`
  is what the user said last.
  `reasoning="..."` sends that along, in `reasoning_content`, `reasoning` or a <think> block
  (`reasoning_field`).
- `POST /embeddings`: unit vectors of `embedding_dimensions`, hashed bags of words, so that texts with words
  in common are near; floats or base64. `POST /rerank` (also `/rerank` and `/v2/rerank` without /v1): the
  share of the query's words that a document holds. Both under `retrieval_latency_s`, `retrieval_faults`.
- `GET /models`; and `POST <sim.root_url>/search`, a web search as Serper's, with `search_key`.

`record_requests=n` keeps the last n requests on all of these routes but /models: `sim.requests()` gives
them, oldest first, as {"path": "/v1/embeddings", "authorization": True, "body": {...}}.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import http.client
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.simulated.options import Options

_ROOT = Path(__file__).resolve().parents[2]
_HOST = "127.0.0.1"


class SimulatedEndpoint:
    """A running simulated endpoint, as its starter sees it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, host: str = _HOST) -> None:
        self.process = process
        self.host = host
        self.port = port
        self.root_url = f"http://{host}:{port}"
        self.base_url = f"{self.root_url}/v1"

    def stats(self) -> dict[str, Any]:
        """Count and times since the start or the last reset; see `Stats.to_json`."""
        return self._admin("GET", "stats")

    def requests(self, path: str = "") -> list[dict[str, Any]]:
        """Return the latest `record_requests` requests, oldest first.

        With `path`, only those whose path ends so.
        """
        recorded = self._admin("GET", "requests")["requests"]
        return [request for request in recorded if request["path"].endswith(path)]

    def configure(self, **options: Any) -> dict[str, Any]:
        """Change options while it runs; returns all of them. Raises ValueError for what cannot be."""
        return self._admin("POST", "configure", options)

    def reset(self) -> None:
        """Forget everything that was counted, said and cached."""
        self._admin("POST", "reset")

    def kill(self) -> None:
        """SIGKILL: the endpoint is gone in the middle of whatever it did."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Close its stdin and wait for its end; kill it when it takes longer than `timeout_s`."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def _admin(self, method: str, route: str, body: Any = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request(method, f"/admin/{route}", json.dumps(body) if body is not None else None)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["error"]["message"])
        return answer


@contextlib.contextmanager
def simulated_endpoint(
    *, port: int = 0, host: str = _HOST, enter: Callable[[], None] | None = None, **options: Any
) -> Iterator[SimulatedEndpoint]:
    """Start an endpoint with these `Options`; it is gone when the block is left.

    `enter` is called in its process first: to have the network of another machine, say.

    Raises ValueError for options that cannot be, RuntimeError when the process does not come up.
    """
    Options().updated(options)
    where = ("--host", host, "--port", str(port))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.simulated_endpoint", *where, "--options", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        preexec_fn=enter,
    )
    endpoint = SimulatedEndpoint(process, port, host)
    try:
        assert process.stdin is not None
        # By stdin and not as an argument: an API key must not show in the list of processes.
        process.stdin.write(json.dumps(options).encode() + b"\n")
        process.stdin.flush()
        yield SimulatedEndpoint(process, _port_of(process), host)
    finally:
        endpoint.stop()


def _port_of(process: subprocess.Popen[bytes], timeout_s: float = 20.0) -> int:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], timeout_s)
    line = process.stdout.readline() if ready else b""
    if not line:
        raise RuntimeError(f"the simulated endpoint did not come up within {timeout_s:g} s (see its stderr)")
    return int(json.loads(line)["port"])


# The process itself


def _end_with_starter(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set `stop` once stdin closes, or the starter is gone while somebody else holds the pipe open."""
    starter = os.getppid()

    def read_to_the_end() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(0, 4096):
                pass
        with contextlib.suppress(RuntimeError):  # the loop has closed already
            loop.call_soon_threadsafe(stop.set)

    def watch_starter() -> None:
        if os.getppid() != starter:
            stop.set()
        loop.call_later(1.0, watch_starter)

    threading.Thread(target=read_to_the_end, name="stdin", daemon=True).start()
    watch_starter()


async def _serve(host: str, port: int, options: Options) -> None:
    # Only the process needs them: whoever starts it does not pay for their import.
    from tests.support.simulated.http_server import Connection, Server
    from tests.support.simulated.service import Service

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _end_with_starter(loop, stop)
    server = Server(Service(options, loop), loop)
    listener = await loop.create_server(lambda: Connection(server), host, port, backlog=4096)
    port = listener.sockets[0].getsockname()[1]
    print(json.dumps({"port": port, "base_url": f"http://{host}:{port}/v1", "pid": os.getpid()}), flush=True)
    await stop.wait()
    listener.close()
    for connection in list(server.connections):
        connection.reset()


def _read_line() -> bytes:
    """Return the first line of stdin, unbuffered: what follows belongs to whoever watches for its end."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


def main() -> None:
    """Run the endpoint until its stdin closes or it is told to stop."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default=_HOST, help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port there; 0: any free one")
    parser.add_argument("--options", default="{}", help="options as JSON; -: the first line of stdin")
    arguments = parser.parse_args()
    text = _read_line() if arguments.options == "-" else arguments.options
    try:
        options = Options().updated(json.loads(text or "{}"))
    except ValueError as error:
        parser.error(str(error))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    gc.set_threshold(20_000, 20, 20)  # calls leave few cycles behind
    import uvloop

    uvloop.run(_serve(arguments.host, arguments.port, options))


if __name__ == "__main__":
    main()
