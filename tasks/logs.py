"""Which run a log line of the core's is of: Prefect says it of its own loggers' lines alone."""

from __future__ import annotations

import logging

from prefect.context import FlowRunContext, TaskRunContext

from medsynth_core.logs import as_json

_CORE = "medsynth_core"


def name_runs() -> None:
    """Gives the core's log lines the ids of the run that they are of; may be called again."""
    for handler in (*logging.getLogger().handlers, *logging.getLogger(_CORE).handlers):
        handler.addFilter(_with_run)


def _with_run(record: logging.LogRecord) -> bool:
    if not record.name.startswith(_CORE) or hasattr(record, "flow_run_id"):
        return True
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if task is not None:
        record.task_run_id, record.task_run_name = str(task.task_run.id), task.task_run.name
        record.flow_run_id = str(task.task_run.flow_run_id)
    if flow is not None and flow.flow_run is not None:
        record.flow_run_id, record.flow_run_name = str(flow.flow_run.id), flow.flow_run.name
    who = getattr(record, "task_run_name", None) or getattr(record, "flow_run_name", None)
    if who is not None and not as_json():
        record.name = f"{record.name} of {who!r}"
    return True
