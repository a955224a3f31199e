from risk_producer import RiskProducer, RiskSnapshot

with RiskProducer.from_env() as producer:  # REDIS_URL, and the settings of the README
    producer.save(
        RiskSnapshot(
            trader_id="desk-7",
            daily_pnl=-120.5,
            drawdown_pct=0.12,
            current_equity=99_879.5,
            peak_equity=100_000.0,
        )
    )
