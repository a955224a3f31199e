from risk_producer import RiskProducer

with RiskProducer.from_env() as producer:
    trader = producer.bind("desk-7")
    trader.save(daily_pnl=-4_000, drawdown_pct=4.1, current_equity=95_900, peak_equity=100_000)
    trader.push(
        daily_pnl=-5_100,
        drawdown_pct=5.1,
        current_equity=94_900,
        peak_equity=100_000,
        trading_paused=True,
        reason="daily loss limit",
    )
