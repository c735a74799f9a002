"""Client of OpenAI-compatible endpoints: routing, retries, dialects, structured output, counts."""
