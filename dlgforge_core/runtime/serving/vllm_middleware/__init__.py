"""Loaded by `vllm serve` from its PYTHONPATH, not by dlgforge."""
