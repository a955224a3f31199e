import asyncio

from risk_producer import AsyncRiskProducer, RiskSnapshot


async def trade() -> None:
    async with AsyncRiskProducer.from_env() as producer:
        await producer.save(
            RiskSnapshot(trader_id="desk-8", daily_pnl=1, drawdown_pct=0, current_equity=1, peak_equity=1)
        )


asyncio.run(trade())
