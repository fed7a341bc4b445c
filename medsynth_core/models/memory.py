"""Errors that say that memory lacked."""

from __future__ import annotations

import torch
from accelerate.utils.memory import should_reduce_batch_size


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error, or one while which it arose, says that memory didn't suffice.

    A graph whose capture runs out of memory fails once more when the capture ends.
    """
    first: BaseException | None = error
    while first is not None:
        if isinstance(first, torch.OutOfMemoryError) or (
            isinstance(first, Exception) and should_reduce_batch_size(first)
        ):
            return True
        first = first.__cause__ or first.__context__
    return False
