"""Snapshots on disk: accepted, and not yet in Redis."""
