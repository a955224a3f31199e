import time

from apscheduler.schedulers.background import BackgroundScheduler

from risk_producer import RiskProducer

with RiskProducer.from_env() as producer:
    bot = producer.bind("scheduled")

    def report() -> None:
        bot.save(daily_pnl=-1, drawdown_pct=0.1, current_equity=999, peak_equity=1_000)

    scheduler = BackgroundScheduler()
    scheduler.add_job(report, "interval", seconds=0.1)
    scheduler.start()
    time.sleep(1)  # here: for as long as it is to trade
    scheduler.shutdown()  # waits for the jobs, so that none saves into a producer that is closed
