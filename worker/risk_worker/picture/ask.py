"""The picture that answers the question for a curve."""

from __future__ import annotations

from risk_worker.picture.curve import Picture, picture_of
from risk_worker.query.questions import Curve, Pauses
from risk_worker.query.reader import RiskReader
from risk_worker.times import zone_of


def ask(reader: RiskReader, curve: Curve) -> Picture:
    """Of the trader, in the time and the buckets of the question; with its pauses, as of one moment.

    Without an end it ends now, by the clock of the database. Raises DatabaseUnavailable, ConfigurationError.
    """
    values = curve.values
    with reader.at_one_moment() as moment:
        now = moment.now()
        pauses = Pauses(curve.trader, since=values["since"], until=values["until"])
        return picture_of(
            curve.trader,
            list(moment.ask(curve)),
            moment.ask(pauses),
            bucket=values["bucket"],
            since=values["since"],
            until=min(values["until"] or now, now),
            zone=zone_of(curve.tz),
        )
