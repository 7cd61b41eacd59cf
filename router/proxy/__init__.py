"""The data path: what stands between a client and a version."""
