from joblib import Parallel, delayed

from risk_producer import RiskProducer


def trade(name: str) -> bool:
    with RiskProducer.from_env() as producer:
        bot = producer.bind(name)
        return bot.save(daily_pnl=-1, drawdown_pct=0.1, current_equity=999, peak_equity=1_000)


if __name__ == "__main__":
    names = ["job-1", "job-2", "job-3"]
    print(Parallel(n_jobs=2)(delayed(trade)(name) for name in names))
