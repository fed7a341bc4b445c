"""How Prefect's server orders events before its automations hear them: as it does by itself, but without its patience.

An event may name one that it follows, and waits until that one was heard: for fifteen minutes, if that was never sent
(the first of a run whose schedule is younger than five minutes) or was sent while the server started. An alarm that
rings after fifteen minutes isn't one. PREFECT_SERVER_EVENTS_CAUSAL_ORDERING=flows.ordering makes the server take this.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect.server.events.ordering import memory
from prefect.server.events.schemas.events import ReceivedEvent

PATIENCE = timedelta(seconds=20)
"""Far longer than events overtake each other by."""


class CausalOrdering(memory.CausalOrdering):
    """Prefect's ordering in memory, in which an event waits ``PATIENCE`` at most."""

    async def wait_for_leader(self, event: ReceivedEvent) -> None:
        if datetime.now(UTC) - event.received < PATIENCE:
            await super().wait_for_leader(event)

    async def get_lost_followers(self) -> list[ReceivedEvent]:
        """Returns, once, the events whose patience is over, in the order in which they occurred."""
        async with self._lock:
            waited = datetime.now(UTC) - PATIENCE
            lost = [self._events[key] for key, received in self._waitlist.items() if received <= waited]
        for event in lost:
            await self.forget_follower(event)
        return sorted(lost, key=lambda event: event.occurred)
