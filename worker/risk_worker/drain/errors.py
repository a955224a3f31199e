"""What a source and a store raise when they cannot work; the drain knows no other errors."""

from __future__ import annotations


class SourceUnavailable(Exception):
    """Redis cannot be reached, or cannot serve just now. Nothing is lost: read again later."""


class StoreUnavailable(Exception):
    """The database cannot store just now. Nothing is lost: the entries stay in the stream."""


class StoreMisconfigured(Exception):
    """An operator has to act before the database can store; the message says what to do."""
