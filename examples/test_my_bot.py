import pytest

from risk_producer import RiskProducer, StreamFull
from risk_producer.testing import RecordingProducer


class MyBot:
    """Stands for the code under test: it is given its producer."""

    def __init__(self, producer: RiskProducer) -> None:
        self.risk = producer.bind("my-bot")
        self.paused = False

    def on_loss(self, drawdown_pct: float) -> None:
        self.paused = drawdown_pct > 2
        self.risk.push(
            daily_pnl=-300,
            drawdown_pct=drawdown_pct,
            current_equity=9_700,
            peak_equity=10_000,
            trading_paused=self.paused,
            reason="drawdown limit" if self.paused else "",
        )


def test_it_reports_that_it_paused(recording_producer: RecordingProducer) -> None:
    MyBot(recording_producer).on_loss(3)
    [snapshot] = recording_producer.of("my-bot")
    assert snapshot.trading_paused
    assert snapshot.reason == "drawdown limit"


def test_it_pauses_where_nothing_can_be_reported(recording_producer: RecordingProducer) -> None:
    recording_producer.stream_full = True
    bot = MyBot(recording_producer)
    with pytest.raises(StreamFull):
        bot.on_loss(3)
    assert bot.paused
