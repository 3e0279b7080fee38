"""`syncd audit find`: from an asset, licence, model, prompt or sample up to datasets and checkpoints, with counts."""

from dataclasses import dataclass
from typing import Any

from data.audit.parts import AuditError
from data.audit.query import Store
from data.audit.tables import KEYS

ASSETS = """
    SELECT dataset_sha256, object_id FROM assets
    WHERE object_id = $value OR uri = $value OR source_sha256 = $value OR mesh_sha256 = $value
"""
LICENSED = "SELECT dataset_sha256, object_id FROM assets WHERE lower(licence) = lower($value)"
OF_OBJECTS = (
    "SELECT dataset_sha256, sample_id, set_id, object_id FROM samples JOIN asked USING (dataset_sha256, object_id)"
)


@dataclass(frozen=True)
class Selector:
    """How a kind of thing is looked up."""

    objects: str | None
    """Query of (dataset_sha256, object_id) that are meant, if it means objects."""
    samples: str
    """Query of the published (dataset_sha256, sample_id, set_id, object_id) that follow."""


SELECTORS = {
    "asset": Selector(ASSETS, OF_OBJECTS),
    "license": Selector(LICENSED, OF_OBJECTS),
    "sample": Selector(
        None, "SELECT dataset_sha256, sample_id, set_id, object_id FROM samples WHERE sample_id = $value"
    ),
    "prompt": Selector(
        None,
        """
        SELECT dataset_sha256, sample_id, set_id, object_id FROM samples
        WHERE contains(lower(prompt), lower($value)) OR contains(lower(prompt_sent), lower($value))
        """,
    ),
}

DECIDED = """
    SELECT dataset_sha256, sample_id, set_id, kept, reason, value, threshold FROM decisions
    WHERE sample_id = $value ORDER BY ALL
"""
NAMED_MODEL = "SELECT * FROM models WHERE name = $value AND starts_with(revision, $revision) ORDER BY ALL"
IN_DATASETS = "SELECT dataset_sha256 FROM models WHERE name = $value AND starts_with(revision, $revision)"
WITH_MODEL = f"""
    SELECT dataset_sha256, recipe, finished, objects, d.sets, samples, shards,
           list(DISTINCT shard ORDER BY shard) AS shard_names
    FROM datasets d JOIN sets s USING (dataset_sha256)
    WHERE dataset_sha256 IN ({IN_DATASETS}) AND fate = 'published' GROUP BY ALL ORDER BY finished, dataset_sha256
"""
WITH_MATCHES = """
    WITH counted AS (
        SELECT dataset_sha256, set_id, any_value(object_id) AS object_id, count(*) AS samples FROM matched GROUP BY ALL
    )
    SELECT dataset_sha256, d.recipe, d.finished, count(DISTINCT m.object_id) AS objects, count(*) AS sets,
           sum(m.samples)::BIGINT AS samples, count(DISTINCT shard) AS shards,
           list(DISTINCT shard ORDER BY shard) AS shard_names
    FROM counted m JOIN datasets d USING (dataset_sha256) JOIN sets s USING (dataset_sha256, set_id)
    GROUP BY ALL ORDER BY d.finished, dataset_sha256
"""
COUNTED = """
    l.checkpoint_sha256, count(*) FILTER (use = 'target') AS as_target,
    count(*) FILTER (use = 'reference') AS as_reference, count(DISTINCT step) AS steps,
    count(DISTINCT l.sample_id) AS samples, min(step) AS first_step, max(step) AS last_step
"""
UP_TO = """
    SELECT c.checkpoint_sha256, c.dataset_sha256, c.finished, coalesce(as_target, 0) AS as_target,
           coalesce(as_reference, 0) AS as_reference, coalesce(u.samples, 0) AS samples,
           coalesce(u.steps, 0) AS steps, first_step, last_step
    FROM checkpoints c LEFT JOIN used u USING (checkpoint_sha256)
"""
TRAINED_WITH_MATCHES = f"""
    WITH used AS (
        SELECT {COUNTED} FROM ledger l JOIN checkpoints c USING (checkpoint_sha256)
        SEMI JOIN matched m ON m.dataset_sha256 = c.dataset_sha256 AND m.sample_id = l.sample_id GROUP BY ALL
    )
    {UP_TO} WHERE c.dataset_sha256 IN (SELECT dataset_sha256 FROM matched) ORDER BY c.finished, c.checkpoint_sha256
"""
"""Every checkpoint whose dataset holds a match, even if it never drew it."""
TRAINED_WITH_MODEL = f"""
    WITH used AS (SELECT {COUNTED} FROM ledger l WHERE sample_id IS NOT NULL GROUP BY ALL)
    {UP_TO} WHERE c.dataset_sha256 IN ({IN_DATASETS})
            OR (base_model = $value AND starts_with(base_revision, $revision))
    ORDER BY c.finished, c.checkpoint_sha256
"""
"""Every checkpoint that was trained from the model, or on a dataset that was made with it."""


def find(store: Store, kind: str, value: str, everything: bool = False) -> dict[str, Any]:
    """Where a thing went. AuditError if no dataset and no checkpoint ever had to do with it.

    `kind`: asset (object id, source uri or sha256 of source or mesh), license (SPDX), model (NAME or NAME@REVISION),
    sample, prompt (part of its text). `everything`: also lists all images with their uses.
    """
    found = _of_model(store, value) if kind == "model" else _of_samples(store, kind, value, everything)
    if not any(found.values()):
        raise AuditError(f"{kind} {value}: in no dataset and no checkpoint of this store")
    sources = {
        f"{name[:-1]} {row[KEYS[name]]}": store.manifest(name, row[KEYS[name]]).sources
        for name in ("datasets", "checkpoints")
        for row in found[name]
    }
    return {"asked": {kind: value}, **found, "sources": sources}


def _of_samples(store: Store, kind: str, value: str, everything: bool) -> dict[str, Any]:
    selector, parameters = SELECTORS[kind], {"value": value}
    found: dict[str, Any] = {}
    if selector.objects is not None:
        store.table("asked", selector.objects, parameters)
        found["assets"] = store.rows("SELECT * FROM assets JOIN asked USING (dataset_sha256, object_id) ORDER BY ALL")
    if kind == "sample":
        found["decisions"] = store.rows(DECIDED, parameters)
    store.table("matched", selector.samples, {} if selector.objects else parameters)
    found["datasets"] = store.rows(WITH_MATCHES)
    found["checkpoints"] = store.rows(TRAINED_WITH_MATCHES)
    return found | ({"samples": _samples(store)} if everything else {})


def _of_model(store: Store, value: str) -> dict[str, Any]:
    """A model is behind all images of a dataset, so none are listed."""
    name, _, revision = value.partition("@")
    parameters = {"value": name, "revision": revision}
    return {
        "models": store.rows(NAMED_MODEL, parameters),
        "datasets": store.rows(WITH_MODEL, parameters),
        "checkpoints": store.rows(TRAINED_WITH_MODEL, parameters),
    }


def _samples(store: Store) -> list[dict[str, Any]]:
    """Every match with its uses in every checkpoint of its dataset."""
    return store.rows(
        """
        SELECT m.dataset_sha256, m.sample_id, m.set_id, m.object_id, c.checkpoint_sha256,
               count(*) FILTER (use = 'target') AS as_target, count(*) FILTER (use = 'reference') AS as_reference,
               min(step) AS first_step, max(step) AS last_step
        FROM matched m LEFT JOIN checkpoints c USING (dataset_sha256)
        LEFT JOIN ledger l ON l.checkpoint_sha256 = c.checkpoint_sha256 AND l.sample_id = m.sample_id
        GROUP BY ALL ORDER BY ALL
        """
    )
