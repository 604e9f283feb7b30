"""The client for language models behind OpenAI-compatible endpoints, and its durable cache of answers."""
