from multiprocessing import Pool

from risk_producer import RiskProducer


def trade(name: str) -> bool:
    with RiskProducer.from_env() as producer:  # made and closed in the process that uses it
        bot = producer.bind(name)
        return bot.save(daily_pnl=-1, drawdown_pct=0.1, current_equity=999, peak_equity=1_000)


if __name__ == "__main__":
    with Pool(2) as pool:
        print(pool.map(trade, ["process-1", "process-2", "process-3"]))
