"""Forgetting what is old, step by step: ``pruner.Pruner``."""
