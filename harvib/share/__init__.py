"""Sharing models: push the final model of a run to a store with its card, and pull it back as a run folder."""

from harfeat.share import WORKERS, Pulled, Pushed
from harvib.share.pull import pull
from harvib.share.push import push

__all__ = ["WORKERS", "Pulled", "Pushed", "pull", "push"]
