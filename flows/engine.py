"""The one engine that runs every stage: plan, honour receipts, make the rest, check the budget, publish.

Work goes to artifacts/.work/<stage>/<signature>/, one tar and one receipt per shard. When every receipt is there, the
shards are hard-linked into artifacts/<stage>/, which appears whole or not at all.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from configs.load import load_resolved
from configs.schema import Runtime
from data.ids import canonical_json
from data.revocation import REVOKED, REVOKED_FILE, Revoked
from data.shards import (
    Failure,
    Receipt,
    ShardIndex,
    shard_name,
    write_atomic,
)
from data.stage import ShardSpec, StageContext
from flows import mirror
from flows.crashes import crashes_in, note_crash
from flows.errors import warn
from flows.graph import (
    RECIPE_FILE,
    Graph,
    load_graph,
    stage_signature,
    tracked_recipe,
    tracked_values,
)
from flows.inputs import check_inputs
from flows.publishing import publish, stage_step, state
from flows.receipts import changed_shards, finished_shards
from flows.runners import RUNNERS, Runner, WorkerLostError, fitting
from flows.signing import sign_published, signer_of
from flows.takedown.carry import Earlier, carry_over, find_earlier, leave_link
from flows.worker import (
    PLAN_FILE,
    Job,
    StageError,
    disk_full,
    is_disk_full,
    make_shard,
    stage_module,
)
from flows.workspace import PROJECT

PAUSE_SECONDS = 2.0
OPTIONS = (
    *("objaverse_cache", "offline", "offload"),
    *("gradient_checkpointing", "keep_checkpoints", "trackers", "peak_tflops", "prefetch_shards"),
    "store",
)
"""Runtime settings that stages see; so they do those of a language model's server, llm_*."""


@dataclass(frozen=True)
class Progress:
    """Where a stage stands; keys are objects or sets."""

    stage: str
    shards_done: int
    shards_total: int
    keys_done: int
    keys_total: int
    failed: int
    work_dir: Path
    reasons: dict[str, int] = field(default_factory=dict)
    """Failed keys by reason."""


@dataclass(frozen=True)
class StageResult:
    stage: str
    signature: str
    shards: int
    reused: int
    keys: int
    failed: dict[str, int]
    seconds: float
    crashes: dict[str, int] = field(default_factory=dict)
    """Attempts at shards that crashed, by reason, in this run and earlier ones of the same signature."""


@dataclass(frozen=True)
class Work:
    """The shards of a stage, all made."""

    receipts: list[Receipt]
    """In the order of the plan."""
    reused: int
    failed: list[Failure]


def stage_context(graph: Graph, stage: str, workspace: Path, runtime: Runtime) -> StageContext:
    """What the stage may see: the part of the active recipe that dvc.yaml tracks for it, and its inputs."""
    recipe = load_resolved(workspace / RECIPE_FILE)
    node = graph.node(stage)
    return StageContext(
        stage=stage,
        recipe=tracked_recipe(graph, stage, recipe),
        workspace=workspace,
        revoked=Revoked.of(tracked_values(node, workspace).get(REVOKED_FILE, {})),
        signature=stage_signature(graph, stage, workspace),
        inputs=node.inputs,
        device=runtime.device,
        options=seen_options(runtime),
    )


def seen_options(runtime: Runtime) -> dict[str, Any]:
    return {name: value for name, value in runtime if name in OPTIONS or name.startswith("llm_")}


def plan_shards(module: ModuleType, ctx: StageContext) -> list[ShardSpec]:
    """The stage's plan, checked: shards numbered from 0, keys ascending and in one shard only."""
    with stage_step(ctx.stage, "plan"):
        specs = module.plan(ctx)
    if [spec.index for spec in specs] != list(range(len(specs))):
        raise StageError(f"{ctx.stage}: plan() numbers its shards {[spec.index for spec in specs][:5]}, not from 0 up")
    for spec in specs:
        if list(spec.keys) != sorted(set(spec.keys)):
            raise StageError(f"{ctx.stage}: plan() gives shard {spec.index} keys that do not ascend")
    if repeated := _repeated(specs):
        raise StageError(f"{ctx.stage}: plan() puts {repeated[:5]} into more than one shard")
    return specs


def _repeated(specs: list[ShardSpec]) -> list[str]:
    """Keys in more than one shard. Where shards ascend one after the other there are none, and nothing to count."""
    filled = [spec for spec in specs if spec.keys]
    if all(first.keys[-1] < second.keys[0] for first, second in pairwise(filled)):
        return []
    return [key for key, count in Counter(key for spec in filled for key in spec.keys).items() if count > 1]


def run_stage(
    stage: str,
    workspace: Path,
    runtime: Runtime,
    runner: Runner | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    package: str = "tasks",
) -> StageResult:
    """Bring one stage up to date and publish it. `runner` defaults to the one that the runtime names.

    Raises StageError (a shard that cannot be made, the budget, the disk), ConfigError or ShardError (an input).
    """
    chosen = runner or RUNNERS[runtime.runner]
    try:
        return _run_stage(stage, workspace.resolve(), runtime, chosen, on_progress, package)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(workspace.resolve(), 0) from error
        raise


def _run_stage(
    stage: str,
    workspace: Path,
    runtime: Runtime,
    runner: Runner,
    on_progress: Callable[[Progress], None] | None,
    package: str,
) -> StageResult:
    clock = time.monotonic()
    graph = load_graph(workspace)
    module = stage_module(package, graph.node(stage).name)
    check_inputs(graph, stage, load_resolved(workspace / RECIPE_FILE), workspace)
    ctx = stage_context(graph, stage, workspace, runtime)
    signer = signer_of(runtime)  # a key that cannot be used is an error before the work, not after it
    earlier = find_earlier(graph, ctx)
    work = make_shards(module, ctx, runtime, runner, on_progress, package, earlier)
    if stage_signature(graph, stage, workspace) != ctx.signature:
        raise StageError(f"{stage}: its recipe or inputs changed while it ran; run the same command again")
    index = publish(module, ctx, work.receipts, work.failed)
    if earlier is not None:
        leave_link(module, ctx, earlier)
    state(graph, ctx, index, work.receipts)
    mirror.settle(ctx)
    sign_published(workspace, stage, signer)
    mirror.publish(ctx)
    return result_of(ctx, work, index, time.monotonic() - clock)


def make_shards(
    module: ModuleType,
    ctx: StageContext,
    runtime: Runtime,
    runner: Runner,
    on_progress: Callable[[Progress], None] | None,
    package: str,
    earlier: Earlier | None = None,
) -> Work:
    """Make every shard of the plan that has no receipt yet; StageError if one crashes or too many keys fail.

    Shards that a take-down leaves as they were in an `earlier` output are taken from there. The bytes of shards that
    were there before are read last, when the stage can be published but for them.
    """
    specs = plan_shards(module, ctx)
    if earlier is not None:
        carry_over(module, ctx, specs, earlier)
    receipts, theirs = mirror.join(ctx, specs, finished_shards(ctx, specs))
    found = list(receipts.values())
    receipts |= theirs
    write_plan(ctx, specs)
    tell = on_progress or (lambda progress: None)
    runtime = runtime.model_copy(update={"threads_per_worker": threads_per_worker(runtime, len(specs))})
    reused = len(receipts)
    while True:
        progress = _progress(ctx, specs, receipts)
        tell(progress)
        pending = mirror.in_own_order(ctx, [spec for spec in specs if spec.index not in receipts])
        for receipt in _make(ctx, pending, receipts, runtime, runner, package):
            receipts[receipt.index] = receipt
            progress = _advanced(progress, receipt)
            tell(progress)
        changed = changed_shards(ctx, found, runtime.workers)
        if not changed:
            break
        reused -= len(changed)
        found = []
        for index in changed:
            del receipts[index]
    ordered = [receipts[spec.index] for spec in specs]
    failed = sorted((failure for receipt in ordered for failure in receipt.failed), key=lambda item: item.key)
    filtered = getattr(module, "FILTERED_REASONS", frozenset()) | {REVOKED}
    counted = [failure for failure in failed if failure.reason not in filtered]
    check_budget(ctx, counted, sum(len(spec.keys) for spec in specs))
    return Work(ordered, reused, failed)


def result_of(ctx: StageContext, work: Work, index: ShardIndex, seconds: float) -> StageResult:
    return StageResult(
        stage=ctx.stage,
        signature=ctx.signature,
        shards=len(work.receipts),
        reused=work.reused,
        keys=len(index.keys),
        failed=dict(Counter(failure.reason for failure in work.failed)),
        seconds=seconds,
        crashes=crashes_in(ctx.work_dir),
    )


def threads_per_worker(runtime: Runtime, shards: int) -> int:
    """Threads for each shard. By default what the plan and the machine give, never the number of workers: some
    kernels add in another order with another number of threads, and equal recipes must give equal bytes."""
    return runtime.threads_per_worker or max(1, (os.cpu_count() or 1) // max(1, shards))


def _make(
    ctx: StageContext,
    pending: list[ShardSpec],
    receipts: dict[int, Receipt],
    runtime: Runtime,
    runner: Runner,
    package: str,
) -> Iterator[Receipt]:
    """Receipts of the pending shards as they finish. After a shard that crashed no new one is begun; one whose worker
    died is given out again, at most `retries` times, the last time alone: a process that dies takes its neighbours with
    it, and only then is it sure which shard it died of."""
    queue, suspects, deaths = deque(pending), deque[ShardSpec](), Counter[int]()
    crashes: list[tuple[int, Exception]] = []
    runner, one_worker = fitting(runner, len(pending), runtime), runtime.model_copy(update={"workers": 1})
    while queue or suspects:
        given, how = (queue, runtime) if queue else (deque([suspects.popleft()]), one_worker)
        for job, result in runner(make_shard, _jobs(ctx, given, crashes, receipts, how, package), how):
            index = job.spec.index
            if isinstance(result, Receipt):
                yield result
            elif not isinstance(result, WorkerLostError):
                crashes.append((index, result))
            elif deaths[index] < runtime.retries:
                deaths[index] += 1
                if _was_begun(ctx, index):
                    note_crash(ctx.work_dir, index, result, retried=True)
                warn(f"{ctx.stage}: shard {index}: {result}; giving it out again")
                (suspects if deaths[index] == runtime.retries else queue).append(job.spec)
            else:
                note_crash(ctx.work_dir, index, result, retried=False)
                crashes.append((index, _killer(ctx, index, deaths[index] + 1, result)))
        if crashes:
            raise _crash(ctx, *min(crashes, key=lambda crash: crash[0]))


def _was_begun(ctx: StageContext, index: int) -> bool:
    """Whether a worker that died had begun this shard, or had it only waiting: it leaves an unfinished tar."""
    return any(ctx.work_dir.glob(f".{shard_name(index)}.*.tmp"))


def _jobs(
    ctx: StageContext,
    queue: deque[ShardSpec],
    crashes: Sized,
    receipts: dict[int, Receipt],
    runtime: Runtime,
    package: str,
) -> Iterator[Job]:
    while queue and not crashes:
        sizes = [receipt.bytes for receipt in islice(receipts.values(), 64)]
        yield make_job(ctx, queue.popleft(), runtime, package, sum(sizes) // len(sizes) if sizes else 0)


def _killer(ctx: StageContext, index: int, deaths: int, error: WorkerLostError) -> StageError:
    killer = StageError(
        f"{ctx.stage}: shard {index}: worker processes died {deaths} times while they had it, most likely for lack of "
        f"memory; use fewer workers (syncd run --workers N), max_tasks_per_worker in the runtime, or smaller shards; "
        f"finished shards are kept"
    )
    killer.__cause__ = error
    return killer


def make_job(ctx: StageContext, spec: ShardSpec, runtime: Runtime, package: str, expected_bytes: int) -> Job:
    return Job(
        ctx=ctx,
        spec=spec,
        package=package,
        retries=runtime.retries,
        pause_seconds=PAUSE_SECONDS,
        min_free_bytes=int(runtime.min_free_disk_gb * 1e9),
        expected_bytes=expected_bytes,
    )


def _crash(ctx: StageContext, index: int, error: Exception) -> Exception:
    if isinstance(error, StageError):
        return error
    crash = StageError(
        f"{ctx.stage}: shard {index}: {type(error).__name__}: {error} "
        f"(details: syncd run-shard {ctx.stage} --index {index} --debug; finished shards are kept)"
    )
    crash.__cause__ = error
    return crash


def check_budget(ctx: StageContext, failed: list[Failure], total: int) -> None:
    """Raise StageError if more keys failed than `max_failed_fraction` of the stage allows."""
    stage = ctx.stage
    allowed = getattr(getattr(ctx.recipe, stage), "max_failed_fraction", 0.0)
    if len(failed) <= allowed * total:
        return
    reasons = Counter(failure.reason for failure in failed).most_common()
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
    first = failed[0]
    where = "" if ctx.workspace == PROJECT else f" --workspace {ctx.workspace}"
    accept = f"--set {stage}.max_failed_fraction={_rounded_up(len(failed) / total)}"
    fix = (
        f"try them again with: syncd retry-failed {stage}{where}; accept them with: syncd run {accept}{where}"
        if ctx.checkpoint is None
        else f"accept them with {accept}"
    )
    raise StageError(
        f"{stage}: {len(failed)} of {total} keys failed ({listed}), more than {stage}.max_failed_fraction {allowed:g} "
        f"allows; first: {first.key}: {first.reason}: {first.detail[:200]}; {fix}"
    )


def _rounded_up(share: float) -> float:
    return min(1.0, int(share * 100 + 1) / 100)


def write_plan(ctx: StageContext, specs: list[ShardSpec]) -> None:
    """The size of the work, for `syncd status` to read while the stage runs."""
    ctx.work_dir.mkdir(parents=True, exist_ok=True)
    size = {"signature": ctx.signature, "shards": len(specs), "keys": sum(len(spec.keys) for spec in specs)}
    write_atomic(ctx.work_dir / PLAN_FILE, canonical_json(size))


def _progress(ctx: StageContext, specs: list[ShardSpec], receipts: dict[int, Receipt]) -> Progress:
    return Progress(
        stage=ctx.stage,
        shards_done=len(receipts),
        shards_total=len(specs),
        keys_done=sum(len(receipt.keys) + len(receipt.failed) for receipt in receipts.values()),
        keys_total=sum(len(spec.keys) for spec in specs),
        failed=sum(len(receipt.failed) for receipt in receipts.values()),
        work_dir=ctx.work_dir,
        reasons=dict(Counter(failure.reason for receipt in receipts.values() for failure in receipt.failed)),
    )


def _advanced(progress: Progress, receipt: Receipt) -> Progress:
    """With one more shard done: a look at all of them after each would be one at their square."""
    return replace(
        progress,
        shards_done=progress.shards_done + 1,
        keys_done=progress.keys_done + len(receipt.keys) + len(receipt.failed),
        failed=progress.failed + len(receipt.failed),
        reasons=dict(Counter(progress.reasons) + Counter(failure.reason for failure in receipt.failed)),
    )
