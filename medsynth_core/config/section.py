"""What every section of params.yaml is made of.

Every field carries its meaning and unit in ``description``; every default is the ``demo`` preset's. No secret has a
field: credentials come from the environment (``AWS_*``, ``OPENAI_API_KEY``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bf16"]
View = Literal["frontal", "lateral"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "dvclive"]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
