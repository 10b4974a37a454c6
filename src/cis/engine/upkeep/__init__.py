"""Forgetting what is old."""
