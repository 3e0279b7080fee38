"""The flow `retrain`: a checkpoint of the dataset that is there, and whether it takes the place of the current one.

The dataset is taken as it is: bringing it up to date is the work of `regenerate`, on its own schedule. Nothing is
started if the checkpoint that would come out has been judged before. Import after the environment is set, as
flows/regenerate.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect import flow
from prefect.states import Completed

from configs.load import load_resolved, load_runtime
from data.shards import sha256_file
from flows.console import say
from flows.errors import warn
from flows.graph import RECIPE_FILE, index_path, load_graph, stage_signature
from flows.plan import dvc_status
from flows.promotion.measure import measure_by_flow, yardstick
from flows.promotion.store import EVALUATE, Decision, Model, Store
from flows.regenerate import NOTHING, activate, walk
from flows.workspace import locked
from models.evaluation.promotion import CURRENT, Comparison, Verdict, compare, judge

TRAIN, DATASET = "train", "shard"
STATES = {"promoted": "Promoted", "refused": "Refused", "nothing to do": NOTHING}


@dataclass(frozen=True)
class RetrainOutcome:
    ended: Literal["promoted", "refused", "nothing to do"]
    model: str
    """sha256 of the weights that this is about."""
    reason: str


@dataclass(frozen=True)
class Examination:
    """What the rule said about a candidate."""

    verdict: Verdict
    comparison: Comparison | None = None
    """With the current model."""
    anchor: str | None = None
    """Digest of the anchor that stays if the candidate is promoted; None if the candidate takes its place."""

    @property
    def event(self) -> Literal["promoted", "refused"]:
        return "promoted" if self.verdict.promoted else "refused"

    def decide(self, store: Store, candidate: Model) -> Decision:
        """Do what the rule said."""
        comparison = self.comparison.as_json() if self.comparison else None
        return store.decide(self.event, candidate, self.verdict.reason, comparison, self.anchor)


@flow(name="retrain", persist_result=False)
def retrain(
    recipe: str | None = None,
    overrides: list[str] | None = None,
    workspace: str = ".",
    runtime: str | None = None,
    retries: int = 0,
    wait_minutes: float = 0,
) -> RetrainOutcome:
    """Train and evaluate if the dataset or the recipe of training has changed, and promote what does not regress.

    Parameters as those of `regenerate`. The flow run completes in a state named after the outcome: Promoted, Refused
    or NothingToDo.
    """
    folder = Path(workspace).resolve()
    with locked(folder, wait_minutes):
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

    def measure(model: Model) -> None:
        say(f"retrain: measuring model {model.short} as the candidate was")
        measure_by_flow(store, model, load_runtime(runtime))

    found = examine(store, candidate, measure)
    decision = found.decide(store, candidate)
    return RetrainOutcome(found.event, candidate.digest, f"{candidate.short}: {decision.reason}")


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


def examine(store: Store, candidate: Model, measure: Callable[[Model], None] | None = None) -> Examination:
    """The rule (models/evaluation/promotion.py) on the candidate, against the current model and the anchor.

    `measure` makes the scores of either that are not there under the present recipe; without it, and without them, the
    candidate is refused.
    """
    current, anchor = store.current(), store.anchor()
    if current is None or anchor is None:
        return Examination(Verdict(True, "no model was current"))
    if current.record.base_model != candidate.record.base_model:
        names = (model.record.base_model for model in (candidate, current))
        of = ", the current one of ".join(f"{name.name}@{name.revision[:12]}" for name in names)
        return Examination(Verdict(False, f"cannot be compared: it is of {of}; syncd models promote --reason decides"))
    comparison, verdict = _against(store, candidate, current, CURRENT, measure)
    with_anchor = comparison
    if verdict.promoted and anchor.digest != current.digest:
        with_anchor, second = _against(store, candidate, anchor, f"anchor {anchor.short}", measure)
        verdict = Verdict(True, f"{verdict.reason}; {second.reason}") if second.promoted else second
    better = with_anchor is not None and with_anchor.better
    return Examination(verdict, comparison, None if better else anchor.digest)


def _against(
    store: Store, candidate: Model, other: Model, name: str, measure: Callable[[Model], None] | None
) -> tuple[Comparison | None, Verdict]:
    """By scores under one yardstick."""
    measured = yardstick(store.workspace)
    if measure is not None and store.scores(other, measured) is None:
        measure(other)
    both = [store.scores(model, measured) for model in (candidate, other)]
    if both[0] is None or both[1] is None:
        missing = candidate if both[0] is None else other
        return None, Verdict(False, f"cannot be compared: {missing.short} has no evaluation under the present recipe")
    try:
        found = compare(both[0], both[1])
    except ValueError as error:
        return None, Verdict(False, f"cannot be compared: {error}")
    return found, judge(found, load_resolved(store.workspace / RECIPE_FILE).promotion, name)
