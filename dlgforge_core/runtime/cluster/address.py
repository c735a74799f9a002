"""The address of a Ray cluster: whether it is one, and whether a cluster that we may use answers there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from dlgforge_core.errors import RayError
from dlgforge_core.runtime.cluster.head import tcp_problem
from dlgforge_core.runtime.cluster.record import foreign_listener

PROBE_TIMEOUT_S = 20.0

# Run in a process of its own: against an address where no cluster answers, Ray's client tries for 40 s and
# may end its process.
_PROBE = """
import sys
from ray._raylet import GcsClient
try:
    client = GcsClient(address=sys.argv[1])
    client.internal_kv_get(b"session_name", namespace=b"session", timeout=10)
except BaseException as error:
    print(type(error).__name__, str(error)[:400], sep=": ")
    sys.exit(1)
"""

# Of a server for Ray's client, which itself says no more than that it timed out, half a minute later.
_CLIENT_PROBE = """
import sys
import grpc
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc
try:
    channel = init_grpc_channel(sys.argv[1], options=[], asynchronous=False)
    ping = ray_client_pb2.ClusterInfoRequest(type=ray_client_pb2.ClusterInfoType.PING)
    ray_client_pb2_grpc.RayletDriverStub(channel).ClusterInfo(ping, timeout=10, metadata=[("client_id", "")])
except grpc.RpcError as error:
    print(error.code().name, str(error.details())[:400], sep=": ")
    sys.exit(1)
"""


def checked_address(address: str, named: str) -> str:
    """`address`, known to answer. Raises RayError that says where it is `named`, and what is wrong."""
    if address.startswith(("http://", "https://")):
        host = urlsplit(address).hostname or "host"
        raise RayError(
            f"{named} = {address!r} is the address of Ray's dashboard or job server, not of a cluster; use "
            f"'ray://{host}:10001', or '{host}:6379' on a machine of the cluster"
        )
    bare = bare_address(address)
    host, _, port = bare.rpartition(":")
    if "://" in bare or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise RayError(
            f"{named} = {address!r} is not an address; use 'auto', 'local', 'host:6379' or 'ray://host:10001'"
        )
    if problem := problem_at(address):
        raise RayError(
            f"no Ray cluster can be used at {address}: {problem}; start the cluster, correct {named}, or set "
            "it to 'auto'"
        )
    return address


def bare_address(address: str) -> str:
    """`host:port` of an address."""
    return address.removeprefix("ray://").split("?", 1)[0].rstrip("/")


def problem_at(address: str) -> str:
    """Why the cluster at `host:port` or `ray://host:port` cannot be used; empty when it can.

    A cluster that wants a token is looked at again with the one that `ray start` left on this machine. Takes
    a minute at most.
    """
    problem, refused = _probe(address)
    if refused and _token_auth("maybe_enable_token_auth_if_token_available", warn_if_disabled=False):
        problem, refused = _probe(address)
    if refused:
        return (
            "it refused our token, or that we have none: set RAY_AUTH_MODE=token, and put the cluster's "
            "token into ~/.ray/auth_token (where `ray start` keeps it on the head) or RAY_AUTH_TOKEN"
        )
    return problem


def problem_with_borrowing(address: str) -> str:
    """Why the cluster that is recorded on this machine is not to be used unasked; empty when it is.

    One that takes whoever comes is nobody's: its port may be anyone's by now, and what runs there is not kept
    apart from us. Takes a minute at most.
    """
    if problem := foreign_listener(address):
        return problem
    problem, refused = _probe(address, {**os.environ, "RAY_AUTH_MODE": "disabled"})
    if not problem:
        return (
            "it wants no token; start it with RAY_AUTH_MODE=token, or name it in RAY_ADDRESS or ray.address "
            "to use it all the same"
        )
    return problem_at(address) if refused else problem


def _probe(address: str, env: Mapping[str, str] | None = None) -> tuple[str, bool]:
    """Why nothing of use answers there, and whether we were refused for want of the right token."""
    client, bare = address.startswith("ray://"), bare_address(address)
    if problem := tcp_problem(bare):
        return problem, False
    kind = "server for Ray's client" if client else "Ray head"
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _CLIENT_PROBE if client else _PROBE, bare],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return (
            f"something listens there, but it did not answer as a {kind} within {PROBE_TIMEOUT_S:g} s",
            False,
        )
    output = probe.stdout.strip()
    if probe.returncode == 0:
        return "", False
    return f"it does not answer as a {kind} ({output or probe.returncode})", "authenticat" in output.lower()


def _token_auth(function: str, **arguments: Any) -> bool:
    """Call one of Ray's token set-up functions; False in a Ray that has none (before 2.52)."""
    try:
        from ray._private.authentication import authentication_token_setup
    except ImportError:
        return False
    return bool(getattr(authentication_token_setup, function)(**arguments))
