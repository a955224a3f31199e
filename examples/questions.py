from risk_worker.query.questions import Curve, Pauses
from risk_worker.query.reader import RiskReader

reader = RiskReader.from_env()  # POSTGRES_URL=postgresql://user:password@localhost/risk
for pause in reader.ask(Pauses(since="today", tz="Europe/Berlin")):
    print(pause.trader_id, pause.since, pause.until, pause.reason)
curve = reader.ask(Curve("momentum-1", "5m", since="2h ago"))
lowest = min((bucket.low_equity for bucket in curve), default=None)
