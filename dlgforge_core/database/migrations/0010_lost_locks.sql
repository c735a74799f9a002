-- When the server was last seen to have lost the locks of living processes. Unlogged: recovery after a crash, and a
-- standby that takes over, leave it empty, and so tell that all locks are gone; a restart tells by its start time.
CREATE UNLOGGED TABLE lost_locks (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    server_started_at timestamptz NOT NULL,
    noticed_at        timestamptz NOT NULL
);
INSERT INTO lost_locks (server_started_at, noticed_at) VALUES (pg_postmaster_start_time(), '-infinity');
