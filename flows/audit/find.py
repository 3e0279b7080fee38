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
    "model": Selector(
        None,
        """
        SELECT dataset_sha256, sample_id, set_id, object_id FROM samples WHERE dataset_sha256 IN
        (SELECT dataset_sha256 FROM models WHERE name = $value AND starts_with(revision, $revision))
        """,
    ),
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


def find(store: Store, kind: str, value: str, everything: bool = False) -> dict[str, Any]:
    """Where a thing went. AuditError if no dataset and no checkpoint ever had to do with it.

    `kind`: asset (object id, source uri or sha256 of source or mesh), license (SPDX), model (NAME or NAME@REVISION),
    sample, prompt (part of its text). `everything`: also lists all images with their uses.
    """
    selector = SELECTORS[kind]
    parameters = {"value": value}
    if kind == "model":
        name, _, revision = value.partition("@")
        parameters = {"value": name, "revision": revision}
    if selector.objects is not None:
        store.table("asked", selector.objects, parameters)
    store.table("matched", selector.samples, parameters if "$value" in selector.samples else {})
    answer: dict[str, Any] = {"asked": {kind: value}}
    answer |= _named(store, kind, parameters, selector)
    answer["datasets"] = store.rows(
        """
        SELECT dataset_sha256, d.recipe, d.finished, count(DISTINCT m.object_id) AS objects,
               count(DISTINCT set_id) AS sets, count(*) AS samples, count(DISTINCT shard) AS shards,
               list(DISTINCT shard ORDER BY shard) AS shard_names
        FROM matched m JOIN datasets d USING (dataset_sha256) JOIN sets s USING (dataset_sha256, set_id)
        GROUP BY ALL ORDER BY d.finished, dataset_sha256
        """
    )
    answer["checkpoints"] = _checkpoints(store, kind, parameters)
    if everything:
        answer["samples"] = _samples(store)
    if not any(own for name, own in answer.items() if name != "asked"):
        raise AuditError(f"{kind} {value}: in no dataset and no checkpoint of this store")
    answer["sources"] = {
        f"{kind[:-1]} {row[KEYS[kind]]}": store.manifest(kind, row[KEYS[kind]]).sources
        for kind in ("datasets", "checkpoints")
        for row in answer[kind]
    }
    return answer


def _named(store: Store, kind: str, parameters: dict[str, str], selector: Selector) -> dict[str, Any]:
    """The thing itself: assets with their fate, stages of a model, decisions on a sample."""
    if selector.objects is not None:
        return {"assets": store.rows("SELECT * FROM assets JOIN asked USING (dataset_sha256, object_id) ORDER BY ALL")}
    if kind == "model":
        return {
            "models": store.rows(
                "SELECT * FROM models WHERE name = $value AND starts_with(revision, $revision) ORDER BY ALL", parameters
            )
        }
    if kind == "sample":
        return {
            "decisions": store.rows(
                "SELECT dataset_sha256, sample_id, set_id, kept, reason, value, threshold FROM decisions "
                "WHERE sample_id = $value ORDER BY ALL",
                parameters,
            )
        }
    return {}


def _checkpoints(store: Store, kind: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
    """Every checkpoint whose dataset holds a match, even if it never drew it; of a model also those trained from it."""
    base = "OR (base_model = $value AND starts_with(base_revision, $revision))" if kind == "model" else ""
    return store.rows(
        f"""
        WITH used AS (
            SELECT c.checkpoint_sha256, count(*) FILTER (use = 'target') AS as_target,
                   count(*) FILTER (use = 'reference') AS as_reference, count(DISTINCT step) AS steps,
                   count(DISTINCT l.sample_id) AS samples, min(step) AS first_step, max(step) AS last_step
            FROM ledger l JOIN checkpoints c USING (checkpoint_sha256)
            SEMI JOIN matched m ON m.dataset_sha256 = c.dataset_sha256 AND m.sample_id = l.sample_id
            GROUP BY ALL
        )
        SELECT c.checkpoint_sha256, c.dataset_sha256, c.finished, coalesce(as_target, 0) AS as_target,
               coalesce(as_reference, 0) AS as_reference, coalesce(u.samples, 0) AS samples,
               coalesce(u.steps, 0) AS steps, first_step, last_step
        FROM checkpoints c LEFT JOIN used u USING (checkpoint_sha256)
        WHERE c.dataset_sha256 IN (SELECT dataset_sha256 FROM matched) {base}
        ORDER BY c.finished, c.checkpoint_sha256
        """,
        parameters if kind == "model" else {},
    )


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
