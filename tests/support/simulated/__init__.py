"""The parts of the simulated OpenAI-compatible endpoint; start it with `tests.support.simulated_endpoint`."""
