"""The flow `retrain`: a checkpoint of the dataset that is there, and whether it takes the place of the current one.

The dataset is taken as it is: bringing it up to date is the work of `regenerate`, on its own schedule. Nothing is
started if the checkpoint that would come out has been judged before. Import after the environment is set, as
flows/regenerate.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect import flow
from prefect.states import Completed

from configs.load import load_resolved, load_runtime
from data.shards import sha256_file
from flows.console import say
from flows.engine import warn
from flows.graph import RECIPE_FILE, index_path, load_graph, stage_signature
from flows.plan import dvc_status
from flows.promotion.measure import measure_by_flow, yardstick
from flows.promotion.store import EVALUATE, Model, Store
from flows.regenerate import NOTHING, activate, walk
from flows.workspace import locked
from models.evaluation.promotion import Comparison, Verdict, compare, judge

TRAIN, DATASET = "train", "shard"
STATES = {"promoted": "Promoted", "refused": "Refused", "nothing to do": NOTHING}


@dataclass(frozen=True)
class RetrainOutcome:
    ended: Literal["promoted", "refused", "nothing to do"]
    model: str
    """sha256 of the weights that this is about."""
    reason: str


@flow(name="retrain", persist_result=False)
def retrain(
    recipe: str | None = None,
    overrides: list[str] | None = None,
    workspace: str = ".",
    runtime: str | None = None,
    retries: int = 0,
) -> RetrainOutcome:
    """Train and evaluate if the dataset or the recipe of training has changed, and promote what does not regress.

    Parameters as those of `regenerate`. The flow run completes in a state named after the outcome: Promoted, Refused
    or NothingToDo.
    """
    folder = Path(workspace).resolve()
    with locked(folder):
        activate(folder, recipe, overrides)
        outcome = _retrain(folder, runtime, retries)
    text = f"{outcome.ended}: {outcome.reason}"
    say(f"retrain: {text}")
    return Completed(data=outcome, name=STATES[outcome.ended], message=text)  # type: ignore[return-value]


def _retrain(folder: Path, runtime: str | None, retries: int) -> RetrainOutcome:
    store = Store(folder)
    store.point()
    settled = judged_before(store)
    if settled is not None:
        return settled
    say(f"retrain: {cause(store)}")
    _warn_of_old_inputs(folder)
    walk(folder, (TRAIN, EVALUATE), runtime, retries)
    candidate = store.register(yardstick(folder))
    comparison, verdict = examine(store, candidate, runtime)
    event: Literal["promoted", "refused"] = "promoted" if verdict.promoted else "refused"
    store.decide(event, candidate, verdict.reason, comparison.as_json() if comparison else None)
    return RetrainOutcome(event, candidate.digest, f"{candidate.short}: {verdict.reason}")


def judged_before(store: Store) -> RetrainOutcome | None:
    """Nothing to do: training would make a model again that was promoted, refused or rolled back."""
    signature = stage_signature(load_graph(store.workspace), TRAIN, store.workspace)
    for model in store.models():
        word = store.last_word(model.digest)
        if model.record.signature == signature and word is not None:
            current = store.current()
            state = "is current" if current is not None and current.digest == model.digest else "is not current"
            told = f"model {model.short} is of this dataset and recipe and {state}; {word.event} {word.time}"
            return RetrainOutcome("nothing to do", model.digest, f"{told}: {word.reason}")
    return None


def cause(store: Store) -> str:
    """Why there is something to do, in words."""
    current = store.current()
    if current is None:
        return "no model is current"
    dataset = sha256_file(index_path(store.workspace, DATASET))
    if current.record.dataset_sha256 != dataset:
        return f"the dataset is {dataset[:16]}, the current model's {current.record.dataset_sha256[:16]}"
    return "the recipe, its files or the version of training have changed since the current model"


def _warn_of_old_inputs(folder: Path) -> None:
    graph = load_graph(folder)
    old = [name for name in dvc_status(folder) if name in graph.ancestors(EVALUATE) and name != TRAIN]
    if old:
        warn(f"retrain: {', '.join(old)}: out of date, taken as it is; syncd run --until {DATASET} makes it again")


def examine(store: Store, candidate: Model, runtime: str | None) -> tuple[Comparison | None, Verdict]:
    """The rule (models/evaluation/promotion.py) on the candidate and the current model, measured alike."""
    current, measured = store.current(), yardstick(store.workspace)
    if current is None:
        return None, Verdict(True, "no model was current")
    if current.record.base_model != candidate.record.base_model:
        names = (model.record.base_model for model in (candidate, current))
        of = ", the current one of ".join(f"{name.name}@{name.revision[:12]}" for name in names)
        return None, Verdict(False, f"cannot be compared: it is of {of}; syncd models promote --reason decides")
    if store.scores(current, measured) is None:
        say(f"retrain: measuring the current model {current.short} as the candidate was")
        measure_by_flow(store, current, load_runtime(runtime))
    return comparison_of(store, candidate, current, measured)


def comparison_of(store: Store, candidate: Model, current: Model, measured: str) -> tuple[Comparison | None, Verdict]:
    """By the scores that are kept under one yardstick; refused if either has none."""
    own, other = store.scores(candidate, measured), store.scores(current, measured)
    if own is None or other is None:
        missing = candidate if own is None else current
        return None, Verdict(False, f"cannot be compared: {missing.short} has no evaluation under the present recipe")
    try:
        found = compare(own, other)
    except ValueError as error:
        return None, Verdict(False, f"cannot be compared: {error}")
    return found, judge(found, load_resolved(store.workspace / RECIPE_FILE).promotion)
