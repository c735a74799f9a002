"""Once each in CI; by hand as often as DLGFORGE_KILL_REPETITIONS says."""

from __future__ import annotations

import os

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have every test run that often."""
    repetitions = int(os.environ.get("DLGFORGE_KILL_REPETITIONS", "1"))
    if repetitions > 1:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(repetitions))
