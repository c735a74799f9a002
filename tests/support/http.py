"""An HTTP client for tests."""

from __future__ import annotations

import httpx

CLIENT = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=60)
"""One for all: each reads the machine's certificates, which takes longer than a call. Servers come and go."""
