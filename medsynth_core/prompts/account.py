"""Cost of a plan of prompts: bounded before each call, noted after it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from medsynth_core.errors import BudgetError
from medsynth_core.prompts.ledger import Ledger
from medsynth_core.prompts.records import Reply, Usage
from medsynth_core.tally import count


@dataclass(frozen=True)
class Prices:
    """Dollars a million tokens; None: unknown."""

    input: float | None = None
    output: float | None = None

    def of(self, usage: Usage) -> float:
        """Returns what tokens cost in dollars; 0 when the prices are unknown."""
        return ((self.input or 0.0) * usage.input_tokens + (self.output or 0.0) * usage.output_tokens) / 1e6


@dataclass(frozen=True)
class Budget:
    """What a plan may cost over all its runs.

    Attributes:
        section: of params.yaml, in which the limits are ``budget_usd`` and ``budget_tokens``.
        usd, tokens: None: no limit.
    """

    section: str = ""
    prices: Prices = Prices()
    usd: float | None = None
    tokens: int | None = None


class Account:
    """Keeps one plan within its budget, over all its runs.

    A call is noted with its upper bound before it is sent, and with its real cost once it is answered. One whose
    answer never came keeps its bound, since it may have been paid. So what was really spent is never above what is
    noted, and what is noted never above the budget.
    """

    def __init__(self, ledger: Ledger, plan: str, budget: Budget) -> None:
        self.plan = plan
        self.ledger = ledger
        self.prices = budget.prices
        self._budget = budget
        self._lock = threading.Lock()

    def open_call(self, bound: Usage) -> int:
        """Notes a call before it is sent and returns its number.

        Args:
            bound: tokens that it may use at most.

        Raises:
            BudgetError: it may go beyond the budget.
        """
        with self._lock:
            tokens, usd = self.ledger.spent(self.plan)
            limit_usd, limit_tokens, section = self._budget.usd, self._budget.tokens, self._budget.section
            if limit_usd is not None and usd + self.prices.of(bound) > limit_usd:
                raise BudgetError(
                    f"{section}.budget_usd={limit_usd}: {usd:.4f} USD are spent and the next call may cost "
                    f"{self.prices.of(bound):.4f}; all answers are kept: raise the budget and run again to go on"
                )
            if limit_tokens is not None and tokens + bound.total > limit_tokens:
                raise BudgetError(
                    f"{section}.budget_tokens={limit_tokens}: {tokens} tokens are spent and the next call may "
                    f"use {bound.total}; all answers are kept: raise the budget and run again to go on"
                )
            return self.ledger.open_try(self.plan, bound.total, self.prices.of(bound))

    def said(self) -> str:
        """Returns what is spent, and of how much, as ``, 0.12 of 5.00 USD``; an empty text where nothing costs."""
        _, usd = self.ledger.spent(self.plan)
        if not usd and self._budget.usd is None:
            return ""
        return f", {usd:.2f} USD" if self._budget.usd is None else f", {usd:.2f} of {self._budget.usd:.2f} USD"

    def refused(self, number: int) -> None:
        """Notes that a call was refused, at no cost."""
        self.ledger.drop_try(number)

    def answered(self, number: int, usage: Usage, reply: Reply) -> None:
        """Notes an answer and what it cost, in one instant."""
        self.ledger.keep(reply, (number, usage.total, self.prices.of(usage)))
        count("llm_dollars", self.prices.of(usage))
        count("llm_tokens", usage.input_tokens, direction="input")
        count("llm_tokens", usage.output_tokens, direction="output")
