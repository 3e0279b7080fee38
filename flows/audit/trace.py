"""`syncd audit trace`: from a checkpoint or an image down to assets, prompts, licences, models and code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.audit.parts import AuditError
from data.audit.query import Store
from data.shards import sha256_file
from models.header import FILE_NAME
from tasks.auditing.chain import Link, check_chain, environment_of, link_of

Answer = dict[str, Any]
SHORT_STATEMENT = "stage, statement, signature, started, finished, commit, dirty, sources, environment"
USES = """
    SELECT sample_id, count(*) FILTER (use = 'target') AS as_target,
           count(*) FILTER (use = 'reference') AS as_reference, min(step) AS first_step,
           max(step) AS last_step
    FROM ledger WHERE checkpoint_sha256 = $checkpoint AND sample_id IS NOT NULL GROUP BY sample_id
"""


def trace(store: Store, target: str, everything: bool = False) -> Answer:
    """What is behind `target`: a weights file or train folder, a PNG, the id of a sample or set, or the digest of a
    checkpoint or dataset, which may be shortened. AuditError if the store knows nothing of it.

    `everything`: also lists all sets, images, prompts and assets.
    """
    path = Path(target)
    if path.is_dir() or path.suffix == ".safetensors":
        return trace_file(store, path / FILE_NAME if path.is_dir() else path, everything)
    if path.suffix.lower() == ".png":
        return trace_image(store, path, everything)
    found = trace_name(store, target)
    if found is not None:
        return found
    for kind, follow in (("checkpoints", trace_checkpoint), ("datasets", trace_dataset)):
        sha256 = store.resolve(kind, target) if len(target) >= 8 else None
        if sha256 is not None:
            return follow(store, sha256, everything)
    raise AuditError(
        f"{target}: no checkpoint, dataset, set or sample of this store; what there is: "
        "syncd audit sql 'SELECT * FROM checkpoints'"
    )


def trace_file(store: Store, file: Path, everything: bool) -> Answer:
    if not file.is_file():
        raise AuditError(f"{file}: no such checkpoint")
    sha256 = sha256_file(file)
    if store.resolve("checkpoints", sha256) is None:
        from tasks.auditing.checkpoint import header_of

        claimed = header_of(file)
        known = "knows" if store.resolve("datasets", claimed.dataset_sha256) else "does not know"
        raise AuditError(
            f"{file}: sha256 {sha256} is no checkpoint that was published here; its header claims dataset "
            f"{claimed.dataset_sha256}, which this store {known}"
        )
    return {"file": str(file), **trace_checkpoint(store, sha256, everything)}


def trace_checkpoint(store: Store, sha256: str, everything: bool = False) -> Answer:
    own = store.row("SELECT * FROM checkpoints WHERE checkpoint_sha256 = ?", [sha256])
    used = {"dataset": own["dataset_sha256"], "checkpoint": sha256}
    answer = {
        "kind": "checkpoint",
        "checkpoint": own,
        "uses": store.row(
            """
            SELECT count(*) FILTER (use = 'target') AS as_target, count(*) FILTER (use = 'reference') AS as_reference,
                   count(*) FILTER (use = 'pair') AS pairs, count(DISTINCT sample_id) AS samples,
                   count(DISTINCT set_id) AS sets, count(DISTINCT shard_sha256) FILTER (use <> 'pair') AS shards
            FROM ledger WHERE checkpoint_sha256 = ?
            """,
            [sha256],
        ),
        "pair_tars": store.rows(
            "SELECT * EXCLUDE (checkpoint_sha256) FROM pair_tars WHERE checkpoint_sha256 = ?", [sha256]
        ),
        **chain_answer(store, "training_statements", "checkpoint_sha256", sha256),
        "sources": {"checkpoint": store.manifest("checkpoints", sha256).sources},
    }
    if store.resolve("datasets", own["dataset_sha256"]) is None:
        return {**answer, "dataset": None}
    answer |= dataset_answer(store, own["dataset_sha256"])
    answer["sources"]["dataset"] = store.manifest("datasets", own["dataset_sha256"]).sources
    return answer | (everything_of(store, used) if everything else {})


def trace_dataset(store: Store, sha256: str, everything: bool = False) -> Answer:
    return {
        "kind": "dataset",
        **dataset_answer(store, sha256),
        **chain_answer(store, "statements", "dataset_sha256", sha256),
        "checkpoints": store.rows("SELECT * FROM checkpoints WHERE dataset_sha256 = ? ORDER BY finished", [sha256]),
        "sources": {"dataset": store.manifest("datasets", sha256).sources},
        **(everything_of(store, {"dataset": sha256, "checkpoint": None}) if everything else {}),
    }


def dataset_answer(store: Store, sha256: str) -> Answer:
    """The dataset, its licences and models, and what became of every object and set."""
    return {
        "dataset": store.row("SELECT * FROM datasets WHERE dataset_sha256 = ?", [sha256]),
        "licences": store.rows(
            """
            SELECT licence, a.source, count(DISTINCT object_id) AS objects, count(*) AS sets, sum(images) AS samples
            FROM sets s JOIN assets a USING (dataset_sha256, object_id)
            WHERE dataset_sha256 = ? AND s.fate = 'published' AND a.fate = 'usable'
            GROUP BY ALL ORDER BY objects DESC, licence
            """,
            [sha256],
        ),
        "models": store.rows("SELECT * EXCLUDE (dataset_sha256) FROM models WHERE dataset_sha256 = ?", [sha256]),
        "fates": store.rows(
            """
            SELECT 'object' AS what, fate, reason, count(*) AS count FROM assets WHERE dataset_sha256 = $1 GROUP BY ALL
            UNION ALL
            SELECT 'set', fate, reason, count(*) FROM sets WHERE dataset_sha256 = $1 GROUP BY ALL
            UNION ALL
            SELECT 'image', CASE WHEN kept THEN 'kept' ELSE 'dropped' END, reason, count(*)
            FROM decisions WHERE dataset_sha256 = $1 GROUP BY ALL
            ORDER BY what DESC, fate, reason
            """,
            [sha256],
        ),
    }


def chain_answer(store: Store, table: str, key: str, sha256: str) -> Answer:
    """The statements, what does not fit among them, and the code and environments that they name."""
    rows = store.rows(f"SELECT * FROM {table} WHERE {key} = ?", [sha256])
    links = [link_of(row["stage"], row["body"].encode()) for row in rows]
    return {
        "chain": [{name: row[name] for name in SHORT_STATEMENT.split(", ")} for row in rows],
        "chain_problems": check_chain(links, f"{key.removesuffix('_sha256')} {sha256[:16]}"),
        "code": store.rows(
            f"""
            SELECT "commit", dirty, sources, list(stage) AS stages FROM {table} WHERE {key} = ?
            GROUP BY ALL ORDER BY stages
            """,
            [sha256],
        ),
        "environments": _environments(links),
        "recipe": {link.stage: link.parameters for link in links},
    }


def _environments(links: list[Link]) -> list[Answer]:
    found: dict[str, Answer] = {}
    for link in links:
        own = environment_of(link)
        found.setdefault(own["sha256"], {**own, "stages": []})["stages"].append(link.stage)
    return list(found.values())


def everything_of(store: Store, used: Mapping[str, str | None]) -> Answer:
    """Every published set and image with its uses, and every prompt and asset of the dataset."""
    dataset = [used["dataset"]]
    return {
        "sets": store.rows("SELECT * EXCLUDE (dataset_sha256) FROM sets WHERE dataset_sha256 = ?", dataset),
        "samples": store.rows(
            f"""
            SELECT s.* EXCLUDE (dataset_sha256), coalesce(as_target, 0) AS as_target,
                   coalesce(as_reference, 0) AS as_reference, first_step, last_step
            FROM samples s LEFT JOIN ({USES}) USING (sample_id) WHERE dataset_sha256 = $dataset ORDER BY sample_id
            """,
            dict(used),
        ),
        "assets": store.rows("SELECT * EXCLUDE (dataset_sha256) FROM assets WHERE dataset_sha256 = ?", dataset),
        "prompts": store.rows("SELECT * EXCLUDE (dataset_sha256) FROM prompts WHERE dataset_sha256 = ?", dataset),
    }


def trace_image(store: Store, path: Path, everything: bool) -> Answer:
    """A PNG out of a dataset, by its bytes or pixels; or else one that says that `syncd sample` made it."""
    if not path.is_file():
        raise AuditError(f"{path}: no such picture")
    from tasks.auditing.pictures import digests_of, read_made

    for by, digest in digests_of(path).items():
        found = store.rows("SELECT DISTINCT sample_id FROM samples WHERE png_sha256 = ?", [digest])
        if found:
            answers = [trace_name(store, row["sample_id"]) for row in found]
            entries = [
                entry for answer in answers for entry in answer["found"] if entry["samples"][0]["png_sha256"] == digest
            ]
            return {"kind": "image", "file": str(path), "matched_by": by, "sha256": digest, "found": entries}
    made = read_made(path)
    if made is None:
        raise AuditError(f"{path}: neither its bytes nor its pixels are of a published image, and it carries no origin")
    sha256 = made["checkpoint_sha256"]
    if store.resolve("checkpoints", sha256) is None:
        raise AuditError(f"{path}: says that it was made with checkpoint {sha256}, which was not published here")
    return {"kind": "image", "file": str(path), "made": made, "behind": trace_checkpoint(store, sha256, everything)}


def trace_name(store: Store, name: str) -> Answer | None:
    """A sample or a set by its id, in every dataset that has it; None if none has."""
    found = []
    for kind, column in (("sample", "sample_id"), ("set", "set_id")):
        where = store.rows(
            f"""
            SELECT DISTINCT dataset_sha256, set_id FROM decisions WHERE {column} = $1
            UNION SELECT dataset_sha256, set_id FROM sets WHERE set_id = $1
            """,
            [name],
        )
        found = [_set_answer(store, row["dataset_sha256"], row["set_id"], kind, name) for row in where]
        if found:
            return {"kind": kind if name != found[0]["set"]["set_id"] else "set", "id": name, "found": found}
    return None


def _set_answer(store: Store, dataset: str, set_id: str, kind: str, name: str) -> Answer:
    one = [dataset, set_id]
    narrowed = " AND sample_id = ?" if kind == "sample" and name != set_id else ""
    asked = [*one, name] if narrowed else one
    of_set = store.row("SELECT * EXCLUDE (dataset_sha256) FROM sets WHERE dataset_sha256 = ? AND set_id = ?", one)
    return {
        "dataset": store.row("SELECT * FROM datasets WHERE dataset_sha256 = ?", [dataset]),
        "set": of_set,
        "samples": store.rows(
            f"""
            SELECT * EXCLUDE (dataset_sha256) FROM samples WHERE dataset_sha256 = ? AND set_id = ?{narrowed}
            ORDER BY image_index
            """,
            asked,
        ),
        "decisions": store.rows(
            f"""
            SELECT * EXCLUDE (dataset_sha256, set_id) FROM decisions WHERE dataset_sha256 = ? AND set_id = ?{narrowed}
            ORDER BY image_index
            """,
            asked,
        ),
        "asset": store.row(
            "SELECT * EXCLUDE (dataset_sha256) FROM assets WHERE dataset_sha256 = ? AND object_id = ?",
            [dataset, of_set["object_id"]],
        ),
        "models": store.rows("SELECT * EXCLUDE (dataset_sha256) FROM models WHERE dataset_sha256 = ?", [dataset]),
        "checkpoints": store.rows(
            f"""
            SELECT c.checkpoint_sha256, c.finished, count(*) FILTER (use = 'target') AS as_target,
                   count(*) FILTER (use = 'reference') AS as_reference, min(step) AS first_step, max(step) AS last_step
            FROM checkpoints c LEFT JOIN ledger l ON l.checkpoint_sha256 = c.checkpoint_sha256 AND l.set_id = ?
            {narrowed.replace("sample_id", "l.sample_id")}
            WHERE c.dataset_sha256 = ? GROUP BY ALL ORDER BY c.finished
            """,
            [set_id, *([name] if narrowed else []), dataset],
        ),
        **{
            name: own
            for name, own in chain_answer(store, "statements", "dataset_sha256", dataset).items()
            if name != "recipe"
        },
        "sources": {"dataset": store.manifest("datasets", dataset).sources},
    }


def as_json(answer: Any) -> str:
    return json.dumps(answer, indent=1, ensure_ascii=False)
