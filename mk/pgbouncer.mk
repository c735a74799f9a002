# PgBouncer for the tests of a pooler: Debian's, as root and without one; without it they are skipped.
.PHONY: pgbouncer

pgbouncer:
	@PATH="$$PATH:/usr/sbin"; command -v pgbouncer >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends pgbouncer >/dev/null; } \
	  || echo "No PgBouncer is installed (apt-get install pgbouncer); its tests are skipped" >&2
