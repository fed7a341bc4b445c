"""Prefect tasks: one thin task a core function, with retries, caching, limits and progress."""
