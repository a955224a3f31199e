"""Errors, named by what the caller should do.

RiskError
├── InvalidSnapshot      fix it: raised where a snapshot is made, never later
├── ConfigurationError   fix the settings: names the variable and what it expects
├── StreamFull           slow down: the capped stream stayed full for save_timeout
├── StreamUnavailable    it is retried: Redis cannot be reached just now
├── StateUnknown         do not trade: load() cannot know whether there is a state
└── ProducerClosed       keep it open: push() after close()

After push(), StreamFull and ProducerClosed mean that the snapshot was not accepted, StreamUnavailable that
it was, and will be sent.
"""


class RiskError(Exception):
    """Root of everything that riskstream raises on purpose."""


class InvalidSnapshot(RiskError, ValueError):
    """The snapshot breaks a rule; the message names the field, the value and the rule."""


class ConfigurationError(RiskError):
    """A setting is missing or wrong; the message names it and says what it expects."""


class StreamFull(RiskError):
    """The stream, or the buffer before it, stayed full for too long; the snapshot was not accepted."""


class StreamUnavailable(RiskError):
    """Redis did not answer in time; the snapshot stays in memory and is sent when Redis is back."""

    waited_s: float = 0.0
    """How long a server of Redis was waited for."""


class StateUnknown(RiskError):
    """No source that could know the state answered. Do not trade on a guess."""


class ProducerClosed(RiskError):
    """push() after close(): the snapshot was not accepted."""
