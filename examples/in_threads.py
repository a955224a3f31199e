from concurrent.futures import ThreadPoolExecutor

from risk_producer import RiskProducer

with RiskProducer.from_env() as producer:  # one for all threads

    def trade(name: str) -> None:
        bot = producer.bind(name)
        bot.save(daily_pnl=-1, drawdown_pct=0.1, current_equity=999, peak_equity=1_000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(trade, ["thread-1", "thread-2", "thread-3", "thread-4"]))
