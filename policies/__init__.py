"""The language users write: services and rollout policies, YAML -> frozen models."""
