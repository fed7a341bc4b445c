"""The dataset card: Hugging Face front matter and what a user must know."""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment

_CARD = """---
pretty_name: {{ name }}
license: other
tags: [medical, chest-x-ray, synthetic]
task_categories: [image-classification, text-to-image]
configs:
  - config_name: default
    data_files:
      - split: train
        path: manifest/*.parquet
---
# {{ name }}

**Every image here is synthetic**: made by medsynth {{ generator_version }} from text prompts, of no patient.

{% if corpus.kind == "phantom" -%}
The models were trained on procedural phantoms, drawings that only resemble chest radiographs. Use this release to
try the pipeline, not to train a clinical model.
{%- else -%}
The models were trained on {{ corpus.kind }} studies ({{ corpus.licence }}).
{%- endif %}

- **Not for diagnosis**, nor for any clinical decision.
- Labels are what was *prompted*, not what an observer found.
- Images were filtered for degenerate output, near-duplicates and prompt-image agreement; rejected ones keep a row in
  `rejected/` with the reason. Bounds are quantiles of real held-out images: a copy is one within
  {{ "%.4f" | format(bounds["copy"]) }} of a training image or of another image here (mean absolute difference of 16 x 16 thumbnails),
  agreement is at least {{ "%.2f" | format(bounds["agreement"]) }}.

## Contents

| requested | accepted | rejected | failed |
|---|---|---|---|
| {{ counts.requested }} | {{ counts.accepted }} | {{ counts.rejected.values() | sum }} | {{ counts.failed.values() | sum }} |

| rejected for | images |
|---|---|
{% for reason, n in counts.rejected.items() -%}
| {{ reason }} | {{ n }} |
{% endfor %}
| prompted pathology | accepted images |
|---|---|
{% for name, n in pathologies.items() -%}
| {{ name }} | {{ n }} |
{% endfor %}
## Layout

- `shards/*.tar`: webdataset shards of `<image_id>.png` and `<image_id>.json`, {{ image_size }} x {{ image_size }}, 8-bit grey
- `manifest/*.parquet`: a row an accepted image; `shard`, `offset`, `size` locate its PNG
- `rejected/*.parquet`: a row a rejected image, with reasons
- `release.json`: identity, accounting and settings

## Provenance

spec `{{ spec_hash }}`; models {% for name, digest in model_digests.items() %}{{ name }} `{{ digest[:12] }}`{{ ", " if not loop.last }}{% endfor %}
"""


def write_card(about: Mapping[str, Any]) -> str:
    """Returns the card of a release from its ``release.json``."""
    text: str = Environment(autoescape=False, keep_trailing_newline=True).from_string(_CARD).render(**about)
    return text
