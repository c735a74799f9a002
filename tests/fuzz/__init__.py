"""Fuzzing of what comes from outside: bounded in CI, for as long as DLGFORGE_FUZZ_S says by hand."""
