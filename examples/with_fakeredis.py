import fakeredis

from risk_producer import RiskProducer

with RiskProducer(client=fakeredis.FakeRedis()) as producer:
    bot = producer.bind("my-bot")
    bot.push(daily_pnl=-1, drawdown_pct=0.1, current_equity=999, peak_equity=1_000)
    print(producer.health().accepted)
