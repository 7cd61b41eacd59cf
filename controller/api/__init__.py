"""The HTTP API: who may call it, what it takes, what it answers. `shown` is quick to import."""
