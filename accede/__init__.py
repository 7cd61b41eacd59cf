"""Accede: a model rollout controller."""

__version__ = "0.1.0.dev0"
