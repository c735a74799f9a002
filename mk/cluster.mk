# Runs on several machines, which are network namespaces here: that takes root, and iproute2, Debian's where it is missing.
.PHONY: test-cluster iproute2

iproute2:
	@command -v ip >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends iproute2 >/dev/null; } \
	  || { echo "There is no ip: apt-get install iproute2" >&2; exit 1; }

test-cluster: iproute2 $(VENV)/.installed-dev  ## runs on several machines, which vanish and are cut off; needs root
	$(BIN)/python -m pytest tests/cluster $(PYTEST_ARGS)
