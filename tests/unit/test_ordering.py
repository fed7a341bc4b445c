"""An alarm must ring though the event before it was never heard."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.server.events.ordering import EventArrivedEarly
from prefect.server.events.schemas.events import ReceivedEvent, Resource

from flows import ordering


def event(age: timedelta, follows: ReceivedEvent | None = None) -> ReceivedEvent:
    when = datetime.now(UTC) - age
    run = Resource.model_validate({"prefect.resource.id": "prefect.flow-run.a"})
    return ReceivedEvent(
        occurred=when,
        event="prefect.flow-run.Failed",
        resource=run,
        id=uuid4(),
        follows=follows and follows.id,
        received=when,
    )


async def hear(order: ordering.CausalOrdering, heard: list[ReceivedEvent], each: ReceivedEvent, depth: int = 0) -> None:
    async def again(waiter: ReceivedEvent, depth: int = 0) -> None:
        await hear(order, heard, waiter, depth)

    async with order.preceding_event_confirmed(again, each, depth):
        heard.append(each)


def test_an_event_waits_for_the_one_before_it_and_not_for_ever() -> None:
    async def script() -> None:
        order, heard = ordering.CausalOrdering(scope=uuid4().hex), list[ReceivedEvent]()
        first = event(timedelta(seconds=2))
        second = event(timedelta(seconds=1), first)
        with pytest.raises(EventArrivedEarly):
            await hear(order, heard, second)
        await hear(order, heard, first)
        assert heard == [first, second]

        never_sent = event(timedelta(minutes=1))
        late = event(ordering.PATIENCE - timedelta(seconds=0.2), never_sent)
        after_it = event(timedelta(seconds=1), late)
        for each in (after_it, late):
            with pytest.raises(EventArrivedEarly):
                await hear(order, heard, each)
        assert await order.get_lost_followers() == []
        await asyncio.sleep(0.3)
        assert await order.get_lost_followers() == [late]
        assert await order.get_lost_followers() == []
        await hear(order, heard, late)
        assert heard == [first, second, late, after_it]

    asyncio.run(script())
