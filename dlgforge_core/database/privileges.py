"""Privileges in Postgres: which GRANTs a role lacks for the schema of the run state."""

from __future__ import annotations

import re
from typing import Any

import psycopg

SCHEMA = "dlgforge"
"""The schema that holds every table of the run state."""

WORK_GRANTS = (
    f"GRANT USAGE ON SCHEMA {SCHEMA} TO {{role}};",
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {{role}};",
    f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO {{role}};",
)
"""What a role needs that works on tables which another role made."""

_STATE = f"""
SELECT current_user, current_database(), pg_get_userbyid(n.nspowner),
       has_database_privilege(current_database(), 'CREATE'),
       has_database_privilege(current_database(), 'TEMPORARY'),
       coalesce(has_schema_privilege(n.oid, 'USAGE'), false),
       coalesce((
           SELECT bool_and(has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                           AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
           FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
       ), true),
       coalesce((
           SELECT bool_and(has_sequence_privilege(c.oid, 'USAGE'))
           FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'S'
       ), true)
FROM (VALUES (1)) AS one LEFT JOIN pg_namespace n ON n.nspname = '{SCHEMA}'
"""


def quoted(name: str) -> str:
    """Return an identifier as SQL takes it."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def privilege_problem(connection: psycopg.Connection[Any], *, migrating: bool = False) -> str:
    """Return what the connection's role lacks for its work, and the GRANTs for it.

    Empty when it lacks nothing.

    With `migrating` also what making or upgrading the schema takes.
    """
    row = connection.execute(_STATE).fetchone()
    assert row is not None
    user, database, owner, may_create, may_temporary, usage, tables, sequences = row
    role, name = quoted(user), quoted(database)
    if owner is None:
        if not migrating or may_create:
            return ""
        return (
            f"role {role} may not create the schema {SCHEMA} in database {name}: as the database's owner, or "
            f"a superuser, run GRANT CREATE ON DATABASE {name} TO {role}; "
            f"or CREATE SCHEMA {SCHEMA} AUTHORIZATION {role};"
        )
    if migrating:
        return (
            f"role {role} may not make or upgrade the tables in the schema {SCHEMA}, which belongs to role "
            f"{quoted(owner)}: run any dlgforge command once with a DSN of that role, or have a superuser "
            f"make {role} a member of it: GRANT {quoted(owner)} TO {role};"
        )
    needed = [] if usage and tables and sequences else [grant.format(role=role) for grant in WORK_GRANTS]
    if not may_temporary:
        needed.append(f"GRANT TEMPORARY ON DATABASE {name} TO {role};")
    if not needed:
        return ""
    return (
        f"role {role} lacks rights on the schema {SCHEMA} of database {name}: as {quoted(owner)}, who owns "
        f"it, or a superuser, run {' '.join(needed)}"
    )
