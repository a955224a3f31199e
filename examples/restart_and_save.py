from risk_producer import RiskProducer, RiskSnapshot, StateUnknown

with RiskProducer.from_env() as producer:  # REDIS_URL=redis://localhost:6379/0
    try:
        state = producer.load("alice")  # where it stood before a restart; None: it is new
    except StateUnknown as error:  # Redis is away, or no worker has been there yet: you decide
        print(error)
    snapshot = RiskSnapshot(
        trader_id="alice", daily_pnl=-120.0, drawdown_pct=1.2, current_equity=9_880.0, peak_equity=10_000.0
    )
    accepted = producer.save(snapshot)  # returns at once; False: there was no room, and it is counted
