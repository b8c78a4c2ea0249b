"""Structured matrices in place of dense ones."""
