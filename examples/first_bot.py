from risk_producer import RiskProducer

producer = RiskProducer.from_env()
bot = producer.bind("my-bot")
bot.save(daily_pnl=-120.0, drawdown_pct=1.2, current_equity=9_880.0, peak_equity=10_000.0)
producer.close()
