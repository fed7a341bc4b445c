"""croissant.json: the release in the terms of MLCommons Croissant 1.0 and its Responsible AI extension.

Nothing in it comes from a clock, so that a repeated release has the same bytes: there is no datePublished; the date
of a version is its git tag's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from medsynth_core.hashing import sha256_json
from medsynth_core.manifest import SCHEMA
from medsynth_core.release import facts
from medsynth_core.release.facts import About
from medsynth_core.release.looks import looks
from medsynth_core.release.schema import description
from medsynth_core.storage.content import ObjectRef

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "equivalentProperty": "cr:equivalentProperty",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The standard's own; mlcroissant warns of a term that is missing, used or not."""
_DATA_TYPES = {
    pa.string(): "sc:Text",
    pa.bool_(): "sc:Boolean",
    pa.int32(): "cr:Int32",
    pa.int64(): "cr:Int64",
    pa.float32(): "cr:Float32",
    pa.binary(): "sc:Text",  # Croissant has no type for bytes; Hugging Face's croissants name them so too
}
_REJECTED = "Images that a filter rejected; their pixels aren't kept."
_FORMATS = {
    "json": "application/json",
    "md": "text/markdown",
    "parquet": "application/x-parquet",
    "tar": "application/x-tar",
}


def write_croissant(about: About, files: Sequence[ObjectRef]) -> dict[str, Any]:
    """Returns the JSON-LD of a release.

    Args:
        files: all files of the release but croissant.json itself.
    """
    release = about["release"]
    rejects = any(ref.relpath.startswith("rejected/") for ref in files)
    team = {"@type": "sc:Organization", "name": release["publisher"]}
    named = {"creator": team, "publisher": team} if release["publisher"] else {}
    placed = {"url": release["url"]} if release["url"] else {}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": about["name"],
        "description": f"{about['counts']['accepted']} synthetic chest radiographs with prompts, prompted labels and "
        f"scores. {facts.origin(about)} Not for diagnosis.",
        "version": f"{about['schema_version']}.0.0+{_digest(files)}",
        "license": _licence(about),
        "citeAs": facts.CITATION,
        "inLanguage": "en",
        "keywords": ["synthetic", "chest radiograph", "chest X-ray", "radiology", "medsynth"],
        **named,
        **placed,
        **_responsibility(about),
        "distribution": [
            _file_set("shards", "shards/*.tar", "webdataset shards of PNG images and JSON labels"),
            _file_set("manifest", "manifest/*.parquet", "a row an accepted image"),
            *([_file_set("rejected", "rejected/*.parquet", "a row a rejected image, with reasons")] if rejects else []),
            *(_file(ref) for ref in files),
        ],
        "recordSet": [
            _record_set(
                "images", "manifest", "Accepted images: where each lies in the shards, prompt, labels, scores."
            ),
            *([_record_set("rejected-images", "rejected", _REJECTED)] if rejects else []),
        ],
    }


def _digest(files: Sequence[ObjectRef]) -> str:
    """Names the content: the tag's number is given only after the files are written."""
    return sha256_json(sorted([ref.relpath, ref.md5] for ref in files))[:12]


def _licence(about: About) -> dict[str, Any]:
    release = about["release"]
    link = {"url": release["license_link"]} if release["license_link"] else {}
    said = " ".join(facts.licences(about))
    return {"@type": "sc:CreativeWork", "name": release["license"], "description": said, **link}


def _responsibility(about: About) -> dict[str, Any]:
    return {
        "rai:dataCollection": facts.origin(about),
        "rai:dataUseCases": facts.uses(about),
        "rai:dataLimitations": [
            *looks(about),
            *facts.limits(about),
            *(f"Not for: {misuse}" for misuse in facts.MISUSES),
        ],
        "rai:dataBiases": facts.biases(about),
        "rai:personalSensitiveInformation": facts.privacy(about),
        "rai:dataAnnotationProtocol": "An image has the labels that its prompt asked for; nobody looked.",
        "rai:annotationsPerItem": "1",
        "rai:machineAnnotationTools": [f"medsynth {about['generator_version']}"],
    }


def _file(ref: ObjectRef) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": ref.relpath,
        "name": ref.relpath,
        "contentUrl": ref.relpath,
        "contentSize": f"{ref.size} B",
        "encodingFormat": _format(ref.relpath),
        "md5": ref.md5,
    }


def _file_set(name: str, includes: str, text: str) -> dict[str, Any]:
    """Returns files by pattern; without containedIn, so that mlcroissant looks for them beside croissant.json."""
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": text,
        "encodingFormat": _format(includes),
        "includes": includes,
    }


def _format(path: str) -> str:
    return _FORMATS[path.rpartition(".")[2]]


def _record_set(name: str, file_set: str, text: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": text,
        "key": {"@id": f"{name}/image_id"},
        "field": [_field(name, file_set, column) for column in SCHEMA],
    }


def _field(record_set: str, file_set: str, column: pa.Field) -> dict[str, Any]:
    """Returns the field of a column, with a sub-field a member if it holds structs."""
    is_list = pa.types.is_list(column.type)
    kind = column.type.value_type if is_list else column.type
    source = {"fileSet": {"@id": file_set}, "extract": {"column": column.name}}
    field = {
        "@type": "cr:Field",
        "@id": f"{record_set}/{column.name}",
        "name": column.name,
        "description": description(column),
        **({"repeated": True} if is_list else {}),
    }
    if not pa.types.is_struct(kind):
        return field | {"dataType": _DATA_TYPES[kind], "source": source}
    members = [
        {
            "@type": "cr:Field",
            "@id": f"{field['@id']}/{member.name}",
            "name": member.name,
            "dataType": _DATA_TYPES[member.type],
            "source": source | {"transform": {"jsonPath": member.name}},
        }
        for member in kind
    ]
    return field | {"subField": members}
