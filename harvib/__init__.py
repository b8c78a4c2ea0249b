"""Recurrent video classifiers on feature caches, pruned by a variational information bottleneck."""
