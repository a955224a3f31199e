"""Errors, named by what the caller should do.

RiskError
├── InvalidSnapshot      fix it: raised where a snapshot is made, never later
├── ConfigurationError   fix the settings: names the variable and what it expects
├── StreamFull           slow down: the capped stream stayed full for save_timeout
├── StreamUnavailable    it is retried: Redis cannot be reached just now
└── StateUnknown         do not trade: load() cannot know whether there is a state
"""


class RiskError(Exception):
    """Root of everything that riskstream raises on purpose."""


class InvalidSnapshot(RiskError, ValueError):
    """The snapshot breaks a rule; the message names the field, the value and the rule."""


class ConfigurationError(RiskError):
    """A setting is missing or wrong; the message names it and says what it expects."""


class StreamFull(RiskError):
    """The stream stayed at RISK_STREAM_MAXLEN for RISK_SAVE_TIMEOUT_S; the snapshot was not accepted."""


class StreamUnavailable(RiskError):
    """Redis did not answer in time; the snapshot stays in memory and goes out when Redis is back."""


class StateUnknown(RiskError):
    """No place that could know the state answered. Do not trade on a guess."""
