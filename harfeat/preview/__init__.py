"""A page that shows a person what a cache was made from: sampled frames of each class."""

from harfeat.preview.page import PreviewSettings, write_preview

__all__ = ["PreviewSettings", "write_preview"]
