"""Requests refused, in the shape of OpenAI's API."""

from __future__ import annotations

import orjson

# Message, type and code by status.
STATUS_ERRORS = {
    429: ("Rate limit reached, try again later.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing the request.", "server_error", None),
    503: ("The server is overloaded or not ready yet.", "server_error", "service_unavailable"),
}


class RequestError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, code: str | None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def status_error(status: int) -> RequestError:
    """Return the error a server gives with `status`."""
    message, _, code = STATUS_ERRORS.get(status, (f"Simulated status {status}.", "", None))
    return RequestError(status, message, code)


def error_body(error: RequestError) -> bytes:
    """Return the body of the answer."""
    known = STATUS_ERRORS.get(error.status)
    kind = known[1] if known else "server_error" if error.status >= 500 else "invalid_request_error"
    return orjson.dumps(
        {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
    )
