from risk_producer import RiskProducer, StateUnknown

producer = RiskProducer.from_env()
try:
    state = producer.load("desk-7")
except StateUnknown:
    raise SystemExit("it is not known whether desk-7 is paused: not trading") from None
if state is not None and state.snapshot.trading_paused:
    print("still paused:", state.snapshot.reason, state.source, f"{state.age_s:.0f} s old")
producer.close()
