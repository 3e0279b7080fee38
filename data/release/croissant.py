"""croissant.json: the dataset as Croissant 1.1 describes it, with its RAI 1.0 fields and PROV-O provenance.

Written as plain JSON-LD, so that publishing needs no other package; the tests validate and load it with mlcroissant.
Images, masks and records are members of the shards, and images.parquet joins an image with what is known of it:
mlcroissant reads no JSON out of archives, so a record comes as its text.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.card import CardFacts
from data.release.images import COLUMNS
from data.release.licensing import AND
from data.release.terms import address_of
from data.release.words import licence_in_words
from data.shards import ShardEntry, sha256_file

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "annotation": "cr:annotation",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "excludes": "cr:excludes",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
TAR, JSON, PNG, PARQUET = "application/x-tar", "application/json", "image/png", "application/x-parquet"
_TYPES = {"string": "sc:Text", "int64": "cr:Int64", "double": "cr:Float64"}
_EQUIVALENT = {"asset": "prov:wasDerivedFrom", "model": "prov:wasAttributedTo", "asset_licence": "sc:license"}


def write_croissant(facts: CardFacts, signature: str, shards: Sequence[ShardEntry], folder: Path) -> None:
    """`folder` holds the shards and images.parquet. The version names the signature, which determines every byte."""
    described = croissant(facts, signature, shards, sha256_file(folder / "images.parquet"))
    text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
    (folder / "croissant.json").write_text(text, encoding="utf-8")


def croissant(facts: CardFacts, signature: str, shards: Sequence[ShardEntry], images_sha256: str) -> dict[str, Any]:
    release = facts.release
    described = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.title,
        "conformsTo": CONFORMS_TO,
        "description": facts.description,
        "license": _licences(facts),
        "usageInfo": {
            "@type": "CreativeWork",
            "name": "Terms worked out from the inputs (no legal advice)",
            "text": " ".join(licence_in_words(facts.licence)),
        },
        "url": release["url"],
        "creator": _party(release["creator"]),
        "datePublished": release["date"],
        "version": f"{release['version']}+{signature[:16]}",
        "citeAs": facts.citation,
        "isLiveDataset": False,
        "inLanguage": "en",
        "keywords": ["synthetic data", "text-to-image customization", "consistent image sets", "generated images"],
        **_rai(facts),
        **_provenance(facts, signature),
        "distribution": _distribution(facts, shards, images_sha256),
        "recordSet": [_sets(), _images(), _masks()],
    }
    return {key: value for key, value in described.items() if value is not None}


def _licences(facts: CardFacts) -> list[Any]:
    """Addresses of what the expression names; a work of its own for what has none."""
    parts = facts.licence.expression.split(AND)
    return [address_of(part) or {"@type": "CreativeWork", "name": part, "url": "DATASET_CARD.md"} for part in parts]


def _party(name: str | None) -> dict[str, str] | None:
    return None if name is None else {"@type": "Organization", "name": name}


def _rai(facts: CardFacts) -> dict[str, Any]:
    return {
        "rai:dataCollection": facts.origin,
        "rai:dataCollectionType": ["Others", "Software Collection"],
        "rai:dataCollectionRawData": facts.sources_in_words,
        "rai:dataCollectionMissingData": (
            "Images that selection dropped are not in the shards; the record of their set names each with its scores "
            "and the reason."
        ),
        "rai:dataPreprocessingProtocol": [facts.selection_in_words],
        "rai:machineAnnotationTools": [f"{role}: {model}" for role, model in facts.scorers.items()],
        "rai:annotationsPerItem": "No human labels; scores, masks and captions are made by software.",
        "rai:dataUseCases": list(facts.intended_use),
        "rai:dataLimitations": list(facts.limitations),
        "rai:dataBiases": list(facts.biases),
        "rai:personalSensitiveInformation": [
            "None is collected on purpose. Assets may be likenesses of people, and a generator may draw people "
            "unasked; nobody looked for either. Authors of assets are named in ATTRIBUTION.md, as their licences ask."
        ],
        "rai:dataSocialImpact": (
            "Models trained on it place a given object into new scenes, which helps design and illustration and also "
            "makes misleading pictures easier. Every image says in its metadata that it is synthetic."
        ),
        "rai:dataReleaseMaintenancePlan": facts.release["maintenance"] or "Not stated.",
    }


def _provenance(facts: CardFacts, signature: str) -> dict[str, Any]:
    """Asset by asset it is in the records and in images/asset."""
    models = {"generator": list(facts.generators), "captions": [facts.writer], **_lists(facts.scorers)}
    return {
        "prov:wasDerivedFrom": [
            {"@type": "prov:Entity", "prov:label": f"{count} objects of the source {name}"}
            for name, count in facts.sources.items()
        ],
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": f"SynCD pipeline, recipe {facts.recipe}, seed {facts.seed}, signature {signature}",
            "prov:used": [
                {"@type": "prov:Entity", "prov:label": f"{role}: {name}"}
                for role, names in models.items()
                for name in names
            ],
            "prov:wasAssociatedWith": {"@type": "prov:SoftwareAgent", "prov:label": "SynCD"},
        },
    }


def _lists(models: dict[str, str]) -> dict[str, list[str]]:
    return {role: [name] for role, name in models.items()}


def _distribution(facts: CardFacts, shards: Sequence[ShardEntry], images_sha256: str) -> list[dict[str, Any]]:
    base = facts.release["url"].rstrip("/") + "/" if facts.release["url"] else ""
    files = [
        {
            "@type": "cr:FileObject",
            "@id": entry.name,
            "name": entry.name,
            "contentUrl": base + entry.name,
            "contentSize": f"{entry.bytes} B",
            "encodingFormat": TAR,
            "sha256": entry.sha256,
        }
        for entry in shards
    ]
    table = {
        "@type": "cr:FileObject",
        "@id": "images.parquet",
        "name": "images.parquet",
        "description": "One row per image.",
        "contentUrl": f"{base}images.parquet",
        "encodingFormat": PARQUET,
        "sha256": images_sha256,
    }
    inside = [{"@id": entry.name} for entry in shards]
    # mlcroissant 1.1 joins no file set of these archives but the last with a table: that must be the images.
    members = [
        ("records", "*.json", JSON, "The record of every set."),
        ("mask-files", "*.[0-9].mask.png", PNG, "The object mask of every kept image."),
        ("image-files", "*.[0-9].png", PNG, "The kept images, by index."),
    ]
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": name,
            "name": name,
            "description": meaning,
            "containedIn": inside,
            "encodingFormat": kind,
            "includes": pattern,
        }
        for name, pattern, kind, meaning in members
    ]
    return [*files, table, *sets]


def _field(record_set: str, name: str, kind: str, meaning: str, source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": meaning,
        "dataType": kind,
        "source": source,
        **more,
    }


def _member(file_set: str, what: str, regex: str | None = None) -> dict[str, Any]:
    """Content or file name of the members of the shards."""
    source = {"fileSet": {"@id": file_set}, "extract": {"fileProperty": what}}
    return source if regex is None else {**source, "transform": {"regex": regex}}


def _column(name: str) -> dict[str, Any]:
    return {"fileObject": {"@id": "images.parquet"}, "extract": {"column": name}}


def _sets() -> dict[str, Any]:
    name = r"^(.+)\.json$"
    return {
        "@type": "cr:RecordSet",
        "@id": "sets",
        "name": "sets",
        "description": "One set of images of one object, with everything that is known of it.",
        "key": {"@id": "sets/set_id"},
        "field": [
            _field("sets", "set_id", "sc:Text", COLUMNS["set_id"][1], _member("records", "filename", name)),
            _field("sets", "record", "sc:Text", "The whole record, as JSON text.", _member("records", "content")),
        ],
    }


def _images() -> dict[str, Any]:
    own = [
        _field(
            "images",
            "file",
            "sc:Text",
            "Member of the tar.",
            _member("image-files", "filename"),
            references=_column("image"),
        ),
        _field("images", "content", "sc:ImageObject", "The image.", _member("image-files", "content")),
    ]
    columns = [
        _field(
            "images",
            name,
            _TYPES[str(kind)],
            meaning,
            _column(name),
            **({"equivalentProperty": _EQUIVALENT[name]} if name in _EQUIVALENT else {}),
        )
        for name, (kind, meaning) in COLUMNS.items()
        if name != "image"
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "One synthetic image with its prompt, scores and origin.",
        "key": {"@id": "images/file"},
        "field": own + columns,
    }


def _masks() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "masks",
        "name": "masks",
        "description": "The object mask of every image; images/mask names it.",
        "key": {"@id": "masks/file"},
        "field": [
            _field("masks", "file", "sc:Text", "Member of the tar.", _member("mask-files", "filename")),
            _field("masks", "content", "sc:ImageObject", "255 on the object.", _member("mask-files", "content")),
        ],
    }
