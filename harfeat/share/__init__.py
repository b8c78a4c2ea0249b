"""Sharing finished caches: push a folder to a store, pull it back, with a card and Croissant metadata."""

from harfeat.share.pull import Pulled, pull
from harfeat.share.push import Pushed, push

__all__ = ["Pulled", "Pushed", "pull", "push"]
