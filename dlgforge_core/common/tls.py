"""The certificates that servers are checked by."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

import certifi

from dlgforge_core.errors import ConfigError

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name certificates of authorities, the first that is set wins."""


def client_context(env: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return the context of connections: certificates that the environment names, or the usual ones.

    Raises ConfigError, naming variable and path, when one of them names nothing that can be read.
    """
    named = {name: Path(env[name]) for name in VARIABLES if env.get(name)}
    for name, path in named.items():
        _check(name, path)
    for name, path in named.items():
        try:
            if path.is_dir():
                return ssl.create_default_context(capath=path)
            return ssl.create_default_context(cafile=path)
        except (ssl.SSLError, OSError) as error:
            raise _unusable(name, path, f"it holds no certificates in PEM form ({error})") from None
    return ssl.create_default_context(cafile=certifi.where())


def _check(name: str, path: Path) -> None:
    wanted = {"SSL_CERT_FILE": "file", "SSL_CERT_DIR": "folder"}.get(name, "file or folder")
    try:
        if not path.exists():
            raise _unusable(name, path, f"there is no such {wanted}")
        if (wanted == "file" and path.is_dir()) or (wanted == "folder" and not path.is_dir()):
            raise _unusable(name, path, f"that is no {wanted}")
        if not os.access(path, os.R_OK):
            raise _unusable(name, path, "it cannot be read")
    except OSError as error:
        raise _unusable(name, path, str(error.strerror or error)) from None


def _unusable(name: str, path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{name} = {path} in the environment: {why}; name certificates of authorities, or unset {name}"
    )
