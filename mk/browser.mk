# The Dagster UI in headless Chromium: Debian's, as root and without one; else the one on the PATH.
.PHONY: browser chromium

chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || { echo "No Chromium is installed: apt-get install chromium" >&2; exit 1; }

browser: chromium $(VENV)/.installed-dev  ## the UI, clicked through in a real browser
	$(BIN)/python -m pytest tests/browser
