"""What stands beside the lines of a picture, the same in each of its forms."""

from __future__ import annotations

from datetime import timedelta

from risk_worker.picture.curve import SILENT_AFTER, Picture
from risk_worker.picture.figures import amount, clock, cut, length, local, moment, percent


def heading(picture: Picture) -> str:
    """Of whom it is, and when."""
    return f"Equity of {cut_name(picture.trader)}, {span(picture)}"


def cut_name(trader: str) -> str:
    """A trader_id as a heading shows it."""
    return cut(trader, 60)


def span(picture: Picture) -> str:
    """2026-01-31 00:00 to 16:30 UTC."""
    since, until = local(picture.since, picture.zone), local(picture.until, picture.zone)
    form = "%H:%M" if since.date() == until.date() else "%Y-%m-%d %H:%M"
    if picture.until - picture.since < timedelta(minutes=10):
        form += ":%S"
    begin = f"{since:%Y-%m-%d %H:%M}" if not form.endswith("S") else f"{since:%Y-%m-%d %H:%M:%S}"
    return f"{begin} to {until:{form}} {picture.zone}"


def figures(picture: Picture) -> str:
    """How it stands at the end, and its worst."""
    last, worst = picture.last, picture.worst
    if last is None or worst is None:
        return f"no snapshot, {span(picture)}"
    return (
        f"equity {amount(last.close)} · drawdown {percent(last.drawdown)} · "
        f"worst {percent(worst.drawdown)} at {clock(worst.since, picture.zone)} · {span(picture)}"
    )


def peak(picture: Picture) -> str:
    """What the line of the peak is; or where it would be."""
    if picture.last is None:
        return ""
    if picture.peak_is_off:
        return f"peak {amount(picture.last.peak)} ↑ above the scale"
    return f"peak {amount(picture.last.peak)}"


def note(picture: Picture) -> str:
    """How it is made, and what counts as a silence."""
    return (
        f"Buckets of {length(picture.bucket.total_seconds())}; around the line the lowest and the highest "
        f"equity of each. No snapshot: none came for more than {SILENT_AFTER} times the usual distance."
    )


def summary(picture: Picture) -> str:
    """The picture in a sentence or three, for who cannot see it."""
    last, steps = picture.last, list(picture.steps)
    worst = picture.worst
    if last is None or worst is None:
        return f"No snapshot from {span(picture)}."
    low, high = min(step.low for step in steps), max(step.high for step in steps)
    return (
        f"Equity began at {amount(steps[0].open)} and ended at {amount(last.close)}, between {amount(low)} "
        f"and {amount(high)}; peak {amount(last.peak)}. Worst drawdown {percent(worst.drawdown)} at "
        f"{moment(worst.since, picture.zone)}. "
        f"{_times(len(picture.pauses), 'pause')}, {_times(len(picture.silences), 'silence')}."
    )


def _times(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}" if count else f"No {name}"
