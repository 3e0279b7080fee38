"""What a simulation says: a table of the stages, and one of the promises with their targets."""

from dataclasses import dataclass

from flows.simulation.run import Simulation, StageRow

Table = list[list[str]]
OBJECTS = 95_000
SECONDS = 10.0
MEGABYTES = 500.0
SHARD_SECONDS = 60.0
SHARE = 0.02
"""Targets: planning and the scan of what is done, of so many objects, in that time and memory; orchestration below that
share of a shard of a minute. Of more objects in proportion."""
MEGA = 1e6


@dataclass(frozen=True)
class Promise:
    """One measured figure; `most` is its target, None where there is none."""

    name: str
    value: float
    unit: str
    most: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.most is None else self.value <= self.most


def stage_table(simulation: Simulation) -> Table:
    """Header and rows, one for each stage."""
    head = [
        "stage", "shards", "keys", "plan+scan s", "CPU s", "peak MB", "of it code MB", "shard ms", "shard CPU ms",
        "of 60 s", "resume CPU s", "verify CPU s", "publish CPU s", "index MB", "statement MB",
    ]  # fmt: skip
    return [head, *(_row(row, simulation) for row in simulation.stages)]


def _row(row: StageRow, simulation: Simulation) -> list[str]:
    publish = sum(row.resume.counts[f"{part}_cpu_s"] for part in ("publish", "state"))
    verify = row.resume.counts["changed_shards_cpu_s"]
    per_shard = ["-", "-", "-"]
    if row.shards > 1:
        overhead = overhead_s(row, simulation)
        cpu = row.run.cpu_s / row.shards
        per_shard = [f"{1000 * overhead:.1f}", f"{1000 * cpu:.1f}", f"{overhead / SHARD_SECONDS:.3%}"]
    return [
        row.stage,
        f"{row.shards}",
        f"{row.run.counts['keys']:.0f}",
        f"{row.scan.wall_s:.2f}",
        f"{row.scan.cpu_s:.2f}",
        f"{row.scan.peak_mb:.0f}",
        f"{row.scan.base_mb:.0f}",
        *per_shard,
        f"{row.resume.cpu_s:.1f}",
        f"{verify:.1f}",
        f"{publish:.1f}",
        f"{row.index_bytes / MEGA:.2f}",
        f"{row.statement_bytes / MEGA:.2f}",
    ]


def overhead_s(row: StageRow, simulation: Simulation) -> float:
    """Wall time of a stage with shards, for each, beyond what they slept: reading inputs, writing and syncing tars and
    receipts, planning, publication, statement."""
    return row.run.wall_s / row.shards - simulation.world.sleep_s


def promises(simulation: Simulation) -> list[Promise]:
    """Sums over stages are what a run pays that finds all of them unfinished."""
    rows, scale = simulation.stages, max(1.0, simulation.world.objects / OBJECTS)
    sharded = [row for row in rows if row.shards > 1]
    shards = sum(row.shards for row in rows)
    worst = max((overhead_s(row, simulation) for row in sharded), default=0.0)
    found = [
        Promise("plan and resume-scan of all stages", sum(row.scan.wall_s for row in rows), "s", SECONDS * scale),
        Promise("the same, CPU time", sum(row.scan.cpu_s for row in rows), "s", SECONDS * scale),
        Promise("peak memory of a scan", max(row.scan.peak_mb for row in rows), "MB", MEGABYTES * scale),
        Promise("of it beyond the stage's code", max(row.scan.peak_mb - row.scan.base_mb for row in rows), "MB"),
        Promise("orchestration of a shard, worst stage", 100 * worst / SHARD_SECONDS, "% of 60 s", 100 * SHARE),
    ]
    for name, measure in simulation.runners.items():
        share = measure.counts["shard_s"] / SHARD_SECONDS
        found.append(Promise(f"a shard through the {name} runner", 100 * share, "% of 60 s", 100 * SHARE))
    found += [
        Promise("DVC, hashing and caching the outputs", simulation.dvc_s, "s"),
        Promise("the same per shard", 100 * simulation.dvc_s / shards / SHARD_SECONDS, "% of 60 s", 100 * SHARE),
        Promise("syncd status", simulation.status.wall_s, "s"),
        Promise("syncd plan", simulation.plan.wall_s, "s", SECONDS * scale),
        Promise("the same, CPU time", simulation.plan.cpu_s, "s", SECONDS * scale),
        Promise("of it dvc status", simulation.plan.counts["dvc_status_s"], "s"),
        Promise("peak memory of syncd plan", simulation.plan.peak_mb, "MB", MEGABYTES * scale),
        Promise("every digest again (syncd verify)", simulation.verify.wall_s, "s"),
        Promise("peak memory of a whole stage", max(row.run.peak_mb for row in rows), "MB"),
    ]
    if simulation.ledger is not None:
        found += [
            Promise("training ledger", simulation.ledger.counts["bytes"] / MEGA, "MB"),
            Promise("was a sample used? from the ledger alone", simulation.ledger.wall_s, "s"),
        ]
    if simulation.report_bytes is not None:
        found.append(Promise("report page", simulation.report_bytes / MEGA, "MB"))
    return found


def promise_table(simulation: Simulation) -> Table:
    """Header and rows."""
    words = {True: "met", False: "missed", None: ""}
    rows = [
        [
            item.name,
            f"{item.value:.3g}",
            "" if item.most is None else f"at most {item.most:.3g}",
            item.unit,
            words[item.met],
        ]
        for item in promises(simulation)
    ]
    return [["what", "measured", "target", "unit", ""], *rows]
