"""Model servers: the embedded model and managed vLLM, started, watched, ended."""
