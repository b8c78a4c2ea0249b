"""Human-action videos to feature caches: exactly the right frames, official splits, full provenance."""

__version__ = "0.1.0"
