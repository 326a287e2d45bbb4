"""Accuracy as content gets worse."""
