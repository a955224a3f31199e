"""What a source and a store raise when they cannot work; the drain knows no other errors."""

from __future__ import annotations


class SourceUnavailable(Exception):
    """Redis cannot be reached, or cannot serve just now. Nothing is lost: read again later."""

    def __init__(self, message: str, *, no_answer: bool = False) -> None:
        """no_answer: no server answers; which of them the message names changes from try to try."""
        super().__init__(message)
        self.no_answer = no_answer


class StoreUnavailable(Exception):
    """The database cannot store just now. Nothing is lost: the entries stay in the stream."""


class StoreMisconfigured(Exception):
    """An operator has to act before the database can store; the message says what to do."""
