"""The dataset card: Hugging Face front matter and what a user must know."""

# ruff: noqa: E501
from __future__ import annotations

from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from medsynth_core.release import facts
from medsynth_core.release.facts import About
from medsynth_core.release.looks import looks
from medsynth_core.storage.reports import METRICS, report_key

_CARD = """---
{{ front_matter }}---
# {{ name }}

**{{ origin }}**

**{{ looks[0] }}**{% for each in looks[1:] %} {{ each }}{% endfor +%}

## Intended use
{% for each in uses %}
- {{ each }}
{%- endfor %}

## Out-of-scope use
{% for each in misuses %}
- {{ each }}
{%- endfor %}

## Licence
{% for each in licences %}
- {{ "**" ~ each ~ "**" if loop.index > 2 else each }}
{%- endfor %}

## Contents
{% if parent %}
Extends `{{ parent.tag }}` (`{{ parent.dir_md5 }}`, {{ parent.images }} images) by {{ parent.added }} images.
{% endif %}
| requested | accepted | rejected | failed |
|---|---|---|---|
| {{ counts.requested }} | {{ counts.accepted }} | {{ counts.rejected.values() | sum }} | {{ counts.failed.values() | sum }} |

{% if counts.rejected -%}
| rejected for | images |
|---|---|
{% for reason, n in counts.rejected.items() -%}
| {{ reason }} | {{ n }} |
{% endfor %}
{% endif -%}
| prompted pathology | accepted images |
|---|---|
{% for pathology, n in pathologies.items() -%}
| {{ pathology }} | {{ n }} |
{% endfor %}
## Limits and biases
{% for each in limits %}
- {{ each }}
{%- endfor %}

Known biases:
{% for each in biases %}
- {{ each }}
{%- endfor %}

Personal information: {{ privacy }}

## Layout

- `shards/*.tar`: webdataset shards of `<image_id>.png` and `<image_id>.json`, {{ image_size }} x {{ image_size }}, 8-bit grey
- `manifest/*.parquet`: a row an accepted image; `shard`, `offset`, `size` locate its PNG
- `rejected/*.parquet`: a row a rejected image, with reasons
- `release.json`: identity, accounting and settings
- `schema.json`: JSON Schema of a manifest row; `croissant.json`: all of this for machines

## Report

The page of a version (gallery, rejected images, figures beside real images, privacy, provenance) is made after its files, so it
isn't one of them. It lies in the store that they lie in: `{{ report }}`, and `{{ metrics }}`
for machines.

Every PNG is marked as synthetic in its text chunks and by IPTC's digital source type, every label and every row by
`synthetic`.

## Loading

```sh
dvc get WORKSPACE dataset --rev {{ name }}-vN  # WORKSPACE: the git repository; N: the version
```

```python
from medsynth_core.release import open_release

release = open_release("dataset")  # or the git repository, with rev="{{ name }}-vN"
release.manifest()  # pyarrow.Table
release.dataset()[0]  # torch Dataset: image (uint8 [1, H, W]), prompt, pathology, labels, image_id
```

```python
import pyarrow.parquet

pyarrow.parquet.read_table("dataset/manifest")
```

```python
from glob import glob

import webdataset

shards = sorted(glob("dataset/shards/*.tar"))
images = webdataset.WebDataset(shards, shardshuffle=False).decode("pill").to_tuple("png", "json")
```

```python
from datasets import Features, Image, Value, load_dataset

rows = load_dataset("dataset", split="{{ release.split }}")

# types are named, since they can't be guessed from a shard that begins with normal chests
text = Value("string")
finding = {"pathology": text, "anatomy": text, "side": text, "severity": text}
label = {"prompt": text, "labels": [finding], "view": text, "synthetic": Value("bool")}
images = load_dataset(
    "webdataset",
    data_files={"{{ release.split }}": "dataset/shards/*.tar"},
    features=Features({"__key__": text, "__url__": text, "png": Image(), "json": label}),
    split="{{ release.split }}",
)
```

```python
import mlcroissant

mlcroissant.Dataset("dataset/croissant.json").records("images")
```

## Provenance

| | |
|---|---|
| generator | medsynth {{ generator_version }} |
| spec | `{{ spec_hash }}` |
{% for model, digest in model_digests.items() -%}
| {{ model }} | `{{ digest[:16] }}` |
{% endfor -%}
| prompts | {{ prompts.accepted }} of {{ prompts.requested }}, written by provider {{ prompts.provider }} |
| source corpus | {{ corpus.kind }}, {{ corpus.studies.train }} studies and {{ corpus.views.train }} views for training ({{ corpus.licence }}) |
{% if release.publisher %}| publisher | {{ release.publisher }} |
{% endif -%}
{% if release.url %}| home | {{ release.url }} |
{% endif %}
## Citation

The method is that of [arXiv:2403.06835](https://arxiv.org/abs/2403.06835):

```bibtex
{{ citation }}
```
"""

_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def write_card(about: About) -> str:
    """Returns the card of a release from its ``release.json``."""
    page = Environment(autoescape=False, keep_trailing_newline=True, undefined=StrictUndefined).from_string(_CARD)
    text: str = page.render(
        {"parent": None, **about},
        front_matter=yaml.safe_dump(front_matter(about), sort_keys=False, allow_unicode=True),
        origin=facts.origin(about),
        looks=looks(about),
        uses=facts.uses(about),
        misuses=facts.MISUSES,
        licences=facts.licences(about),
        limits=facts.limits(about),
        biases=facts.biases(about),
        privacy=facts.privacy(about),
        citation=facts.CITATION,
        report=report_key(f"{about['name']}-vN"),
        metrics=report_key(f"{about['name']}-vN", METRICS),
    )
    return text


def front_matter(about: About) -> dict[str, Any]:
    """Returns the card's metadata as the Hugging Face Hub reads it.

    The manifest is the only config: datasets reads all configs of a card by one builder, so shards, which aren't
    Parquet, can't be a second one.
    """
    release = about["release"]
    return {
        "pretty_name": about["name"],
        **_license(release["license"].lower(), release["license_link"]),
        "language": ["en"],
        "tags": ["synthetic", "medical", "radiology", "chest-x-ray", "medsynth"],
        "task_categories": ["image-classification", "text-to-image"],
        "size_categories": [size_category(about["counts"]["accepted"])],
        "annotations_creators": ["machine-generated"],
        "source_datasets": ["original"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": release["split"], "path": "manifest/*.parquet"}],
            }
        ],
    }


def size_category(images: int) -> str:
    """Returns the Hub's name for a number of records."""
    place = max(len(str(images)) - 3, 0)
    return f"{_SIZES[place - 1]}<n<{_SIZES[place]}" if place else "n<1K"


def _license(name: str, link: str | None) -> dict[str, str]:
    """The Hub wants a name, and a link if there is one, for a licence that it doesn't list."""
    if name != "other":
        return {"license": name}
    return {"license": name, "license_name": "see-card"} | ({"license_link": link} if link else {})
