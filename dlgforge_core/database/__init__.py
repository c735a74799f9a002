"""Postgres: connections, reconnecting, locks, migrations, and the embedded server."""
