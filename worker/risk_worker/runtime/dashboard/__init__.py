"""`riskstream dashboard`: rq-dashboard, made safe to look at what anyone may have written into RQ's Redis."""

from risk_worker.runtime.dashboard.site import application, serve

__all__ = ["application", "serve"]
