"""Fetching the official archives of a data set, and unpacking them as `harfeat extract` wants them."""

from harfeat.download.archives import ARCHIVES, DatasetArchives
from harfeat.download.dataset import Downloaded, download

__all__ = ["ARCHIVES", "DatasetArchives", "Downloaded", "download"]
