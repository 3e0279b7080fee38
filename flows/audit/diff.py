"""`syncd audit diff`: what changed between two versions of a dataset, and why."""

from collections.abc import Iterator, Mapping
from typing import Any

from data.audit.query import Store
from flows.audit.trace import chain_answer

Answer = dict[str, Any]
OF_ASSETS = ("fate", "split", "category", "caption", "licence", "uri", "source_sha256", "mesh_sha256")
OF_STATEMENTS = ("commit", "dirty", "sources", "environment")
REASONS = {
    "other mesh": "a.mesh_sha256 IS DISTINCT FROM b.mesh_sha256",
    "other licence": "a.licence IS DISTINCT FROM b.licence",
    "other generator": "a.model IS DISTINCT FROM b.model",
    "other images kept": "coalesce(p.one_sided, false)",
    "other prompt": "coalesce(p.prompt, false)",
    "other words for the model": "coalesce(p.told, false)",
    "other seed": "coalesce(p.seed, false)",
    "other pixels": "coalesce(p.png, false)",
    "other mask": "coalesce(p.mask, false)",
}
"""Why a set that both datasets hold is not the same, as conditions on its set and asset in both, and on its images."""
CHANGED = f"""
    WITH own AS (
        SELECT s.dataset_sha256, set_id, model, licence, mesh_sha256
        FROM sets s JOIN assets USING (dataset_sha256, object_id) WHERE s.fate = 'published'
    ), p AS (
        SELECT coalesce(x.set_id, y.set_id) AS set_id, bool_or(x.sample_id IS NULL OR y.sample_id IS NULL) AS one_sided,
               bool_or(x.prompt <> y.prompt) AS prompt, bool_or(x.prompt_sent <> y.prompt_sent) AS told,
               bool_or(x.seed <> y.seed) AS seed, bool_or(x.png_sha256 <> y.png_sha256) AS png,
               bool_or(x.mask_sha256 <> y.mask_sha256) AS mask
        FROM (SELECT * FROM samples WHERE dataset_sha256 = $first) x
        FULL JOIN (SELECT * FROM samples WHERE dataset_sha256 = $second) y USING (sample_id)
        WHERE x.sample_id IS NULL OR y.sample_id IS NULL OR x.prompt <> y.prompt OR x.prompt_sent <> y.prompt_sent
              OR x.seed <> y.seed OR x.png_sha256 <> y.png_sha256 OR x.mask_sha256 <> y.mask_sha256
        GROUP BY ALL
    )
    SELECT set_id, {", ".join(f'{condition} AS "{name}"' for name, condition in REASONS.items())}
    FROM (SELECT * FROM own WHERE dataset_sha256 = $first) a
    JOIN (SELECT * FROM own WHERE dataset_sha256 = $second) b USING (set_id)
    LEFT JOIN p USING (set_id)
    WHERE {" OR ".join(f"({condition})" for condition in REASONS.values())} ORDER BY set_id
"""
MISSING = """
    WITH why AS (
        SELECT set_id, string_agg(DISTINCT reason, ', ' ORDER BY reason) AS reasons FROM decisions
        WHERE dataset_sha256 = $without AND reason <> 'set_too_small' GROUP BY set_id
    )
    SELECT set_id, CASE
        WHEN b.fate = 'dropped' THEN 'dropped: ' || coalesce(why.reasons, b.reason)
        WHEN b.fate = 'failed' THEN 'failed in ' || b.stage || ': ' || b.reason
        WHEN b.fate IS NOT NULL THEN b.fate
        WHEN o.fate IS NULL THEN 'its object is not in the source'
        WHEN o.fate <> 'usable' THEN 'its object was ' || o.fate || ': ' || o.reason
        WHEN o.split = 'eval' THEN 'held out'
        ELSE 'not planned'
    END AS reason
    FROM (SELECT * FROM sets WHERE dataset_sha256 = $with AND fate = 'published') a
    LEFT JOIN (SELECT * FROM sets WHERE dataset_sha256 = $without) b USING (set_id)
    LEFT JOIN (SELECT * FROM assets WHERE dataset_sha256 = $without) o ON o.object_id = a.object_id
    LEFT JOIN why USING (set_id)
    WHERE b.fate IS DISTINCT FROM 'published' ORDER BY set_id
"""
"""Sets that one dataset publishes and the other does not, with the reason that the other has."""


def diff(store: Store, first: str, second: str, everything: bool = False) -> Answer:
    """From dataset `first` to `second`, both whole digests. `everything`: also lists every set that changed."""
    names = {"first": first, "second": second}
    chains = [chain_answer(store, "statements", "dataset_sha256", sha256) for sha256 in names.values()]
    sets = list(_sets(store, first, second))
    counts: dict[tuple[str, str], int] = {}
    for row in sets:
        for reason in row["reasons"]:
            counts[row["change"], reason] = counts.get((row["change"], reason), 0) + 1
    return {
        "datasets": {
            name: store.row("SELECT * FROM datasets WHERE dataset_sha256 = ?", [sha256])
            for name, sha256 in names.items()
        },
        "recipe": changed_keys(*(chain["recipe"] for chain in chains)),
        "models": _models(store, names),
        "code": _code(*(chain["chain"] for chain in chains)),
        "packages": _packages(*(chain["environments"] for chain in chains)),
        "assets": list(_assets(store, names)),
        "sets": [{"change": key[0], "reason": key[1], "count": count} for key, count in sorted(counts.items())],
        "same_sets": _same(store, names, sets),
        "sources": {name: store.manifest("datasets", sha256).sources for name, sha256 in names.items()},
        **({"changed_sets": sets} if everything else {}),
    }


def _sets(store: Store, first: str, second: str) -> Iterator[Answer]:
    for change, here, there in (("removed", first, second), ("added", second, first)):
        for row in store.rows(MISSING, {"with": here, "without": there}):
            reason = row["reason"] if change == "removed" else f"before: {row['reason']}"
            yield {"set_id": row["set_id"], "change": change, "reasons": [reason]}
    for row in store.rows(CHANGED, {"first": first, "second": second}):
        reasons = [name for name in REASONS if row[name]]
        yield {"set_id": row["set_id"], "change": "changed", "reasons": reasons}


def _same(store: Store, names: Mapping[str, str], changed: list[Answer]) -> int:
    """Sets that both hold and that are equal."""
    shared = store.row(
        """
        SELECT count(*) AS sets FROM (SELECT set_id FROM sets WHERE dataset_sha256 = $first AND fate = 'published')
        JOIN (SELECT set_id FROM sets WHERE dataset_sha256 = $second AND fate = 'published') USING (set_id)
        """,
        dict(names),
    )
    return shared["sets"] - sum(row["change"] == "changed" for row in changed)


def changed_keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Answer]:
    """Tracked keys (recipe, stage versions, digests of input files) that differ, with the stages that read them."""
    found: dict[tuple[str, str], Answer] = {}
    for stage in dict.fromkeys([*first, *second]):
        before, after = (dict(_flat(side.get(stage, {}))) for side in (first, second))
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                values = {"first": before.get(key), "second": after.get(key)}
                row = found.setdefault(key, {"file": key[0], "key": key[1], **values, "stages": []})
                row["stages"].append(stage)
    return list(found.values())


def _flat(files: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    """((file, dotted key), value) of every leaf."""

    def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                yield from leaves(f"{name}.{key}" if name else key, item)
        else:
            yield name, value

    for file, values in files.items():
        yield from (((file, key), value) for key, value in leaves("", values))


def _models(store: Store, names: Mapping[str, str]) -> list[Answer]:
    return store.rows(
        """
        WITH named AS (SELECT *, name || '@' || revision || ' (' || licence || ')' AS model FROM models)
        SELECT coalesce(a.stage, b.stage) AS stage, coalesce(a.role, b.role) AS role, a.model AS first,
               b.model AS second
        FROM (SELECT * FROM named WHERE dataset_sha256 = $first) a
        FULL JOIN (SELECT * FROM named WHERE dataset_sha256 = $second) b ON a.stage = b.stage AND a.role = b.role
        WHERE a.model IS DISTINCT FROM b.model ORDER BY stage, role
        """,
        dict(names),
    )


def _code(first: list[Answer], second: list[Answer]) -> list[Answer]:
    """Stages that were made by other code or in another environment."""
    after = {row["stage"]: row for row in second}
    return [
        {"stage": row["stage"], "what": name, "first": row[name], "second": after[row["stage"]][name]}
        for row in first
        if row["stage"] in after
        for name in OF_STATEMENTS
        if row[name] != after[row["stage"]][name]
    ]


def _packages(first: list[Answer], second: list[Answer]) -> list[Answer]:
    """Key packages with other versions; those of all environments of a chain."""
    before, after = (
        {name: sorted({own["packages"].get(name, "") for own in side}) for own in side for name in own["packages"]}
        for side in (first, second)
    )
    return [
        {"package": name, "first": before.get(name), "second": after.get(name)}
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _assets(store: Store, names: Mapping[str, str]) -> Iterator[Answer]:
    """Objects that came, went or changed, a row for each thing that is different."""
    pairs = ", ".join(f"a.{name} AS {name}_1, b.{name} AS {name}_2" for name in OF_ASSETS)
    rows = store.rows(
        f"""
        SELECT object_id, a.fate IS NULL AS added, b.fate IS NULL AS removed, {pairs}
        FROM (SELECT * FROM assets WHERE dataset_sha256 = $first) a
        FULL JOIN (SELECT * FROM assets WHERE dataset_sha256 = $second) b USING (object_id)
        WHERE ({", ".join(f"a.{name}" for name in OF_ASSETS)})
              IS DISTINCT FROM ({", ".join(f"b.{name}" for name in OF_ASSETS)}) ORDER BY object_id
        """,
        dict(names),
    )
    for row in rows:
        if row["added"] or row["removed"]:
            licences = {"first": row["licence_1"], "second": row["licence_2"]}
            yield {"object_id": row["object_id"], "change": "added" if row["added"] else "removed", **licences}
            continue
        for name in OF_ASSETS:
            values = {"first": row[f"{name}_1"], "second": row[f"{name}_2"]}
            if values["first"] != values["second"]:
                yield {"object_id": row["object_id"], "change": f"other {name.removesuffix('_sha256')}", **values}
