"""Every setting, declared once; nothing is read when a module is imported, `Settings.load()` reads."""

from risk_producer.settings.declare import CONFIG_FILE
from risk_producer.settings.fields import (
    Settings,
    check_arguments,
    misspelt,
    warn_of_misspelt,
    without_settings,
)
from risk_producer.settings.urls import mask

__all__ = [
    "CONFIG_FILE",
    "Settings",
    "check_arguments",
    "mask",
    "misspelt",
    "warn_of_misspelt",
    "without_settings",
]
