"""Sharing: push a finished cache to a store and pull it back, with a card and Croissant metadata.

What is not about caches is for others too: a `Kind` of content, `publish` and `receive`, the Markdown of cards.
"""

from harfeat.errors import InputError
from harfeat.hashing import sha256_of_file
from harfeat.share.extracting import extract_command
from harfeat.share.kinds import Kind, Listing
from harfeat.share.markdown import fenced, flat, plain, table
from harfeat.share.publish import WORKERS, Offer, Pushed, publish
from harfeat.share.pull import pull
from harfeat.share.push import push
from harfeat.share.receive import Pulled, receive
from harfeat.share.remote import MODEL, Entry, Outgoing

__all__ = [
    "MODEL",
    "WORKERS",
    "Entry",
    "InputError",
    "Kind",
    "Listing",
    "Offer",
    "Outgoing",
    "Pulled",
    "Pushed",
    "extract_command",
    "fenced",
    "flat",
    "plain",
    "publish",
    "pull",
    "push",
    "receive",
    "sha256_of_file",
    "table",
]
