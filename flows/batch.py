"""Shards by number, as the tasks of a batch scheduler's job array make them; receipts are all that the next run needs.

    #SBATCH --array=0-99 --gpus-per-task=1
    syncd run-shard generate --index $SLURM_ARRAY_TASK_ID --of $SLURM_ARRAY_TASK_COUNT --workspace /shared/run

One task makes every 100th shard with the models it has loaded once. Without `--of` it makes the one shard of that
number. Arrays of other schedulers: $PBS_ARRAY_INDEX, $((SGE_TASK_ID - 1)) of $SGE_TASK_LAST, $((LSB_JOBINDEX - 1)).
Tasks may run beside each other and beside `syncd run`: a shard that somebody makes is waited for, one that is done is
not made again.
"""

from collections.abc import Iterator
from pathlib import Path

from configs.errors import ConfigError
from configs.load import load_resolved
from configs.schema import Runtime
from data.shards import Receipt
from flows.bringing import bring_inputs
from flows.engine import make_job, plan_shards, stage_context, threads_per_worker, write_plan
from flows.graph import RECIPE_FILE, load_graph
from flows.inputs import check_inputs
from flows.worker import limit_threads, make_shard, stage_module


def run_share(
    stage: str, index: int, of: int | None, workspace: Path, runtime: Runtime, package: str = "tasks"
) -> Iterator[Receipt]:
    """Receipts of the shards `index`, `index + of`, ... of a stage as they are made, or of shard `index` alone.

    A share may be empty, where there are fewer shards than tasks. ConfigError if there is no such share or shard.
    """
    if of is not None and index >= of:
        raise ConfigError(f"--index is {index}; allowed with --of {of}: 0 to {of - 1} (number the job array from 0)")
    graph = load_graph(workspace)
    module = stage_module(package, graph.node(stage).name)
    bring_inputs(graph, stage, workspace, runtime.store)
    check_inputs(graph, stage, load_resolved(workspace / RECIPE_FILE), workspace)
    ctx = stage_context(graph, stage, workspace, runtime)
    specs = plan_shards(module, ctx)
    if of is None and index >= len(specs):
        raise ConfigError(f"{stage} has {len(specs)} shards, numbered from 0; there is no shard {index}")
    write_plan(ctx, specs)
    limit_threads(threads_per_worker(runtime, len(specs)))
    for spec in specs[index :: of or len(specs)]:
        yield make_shard(make_job(ctx, spec, runtime, package, expected_bytes=0))
