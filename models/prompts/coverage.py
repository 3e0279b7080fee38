"""What a set of prompts covers: how many of each kind, how long, and what several objects share."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import nsmallest
from typing import Any

from data.records import PromptRecord
from models.prompts.validate import comparable

SHOWN = 5
"""Most shared captions that are listed."""


def coverage(records: Iterable[PromptRecord]) -> dict[str, Any]:
    """Counts over all records, one of each object, which are looked at once.

    kinds: by kind of caption: prompts, objects that have one, prompts per object (min, mean, max) and words per prompt
    (min, mean, max). shared_captions: captions that stand for more than one object. shared_contexts: the same with the
    object's own words taken out, so that "a red mug on a beach" and "a blue hat on a beach" share one. most_shared: the
    most common contexts with the number of their objects. rejected: drafts by reason.
    """
    objects = 0
    counts: dict[str, list[int]] = defaultdict(list)
    words: dict[str, list[int]] = defaultdict(list)
    captions: Counter[str] = Counter()
    contexts: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for record in records:
        objects += 1
        own = Counter(prompt.kind for prompt in record.prompts)
        for kind, count in own.items():
            counts[kind].append(count)
        for prompt in record.prompts:
            words[prompt.kind].append(len(prompt.text.split()))
        captions.update({comparable(prompt.text) for prompt in record.prompts})
        contexts.update({_context(prompt.text, record) for prompt in record.prompts})
        rejected.update(item.reason for item in record.rejected)
    common = nsmallest(SHOWN, contexts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "objects": objects,
        "kinds": {
            kind: {
                "prompts": sum(counts[kind]),
                "objects": len(counts[kind]),
                "per_object": _spread(counts[kind]),
                "words": _spread(words[kind]),
            }
            for kind in sorted(counts)
        },
        "captions": len(captions),
        "shared_captions": sum(count > 1 for count in captions.values()),
        "contexts": len(contexts),
        "shared_contexts": sum(count > 1 for count in contexts.values()),
        "most_shared": [[text, count] for text, count in common if count > 1],
        "rejected": dict(sorted(rejected.items())),
    }


def _context(text: str, record: PromptRecord) -> str:
    phrase = re.sub(r"^(?:an?|the)\s+", "", comparable(record.caption))
    found = comparable(text)
    for own in filter(None, (phrase, record.category.lower())):
        found = re.sub(rf"(?:\b(?:an?|the)\s+)?\b{re.escape(own)}\b", "*", found)
    return found


def _spread(values: list[int]) -> dict[str, float]:
    return {"min": min(values), "mean": round(sum(values) / len(values), 2), "max": max(values)}


def as_markdown(covered: dict[str, Any]) -> str:
    lines = [
        "# Prompts",
        "",
        f"{covered['objects']} objects, {covered['captions']} different captions.",
        "",
        "| kind | prompts | objects | per object | words |",
        "|---|---|---|---|---|",
    ]
    for kind, row in covered["kinds"].items():
        spreads = (f"{row[name]['min']} - {row[name]['mean']} - {row[name]['max']}" for name in ("per_object", "words"))
        lines.append(f"| {kind} | {row['prompts']} | {row['objects']} | {' | '.join(spreads)} |")
    lines += [
        "",
        "Ranges are least - mean - most.",
        "",
        f"- Captions that stand for more than one object: {covered['shared_captions']} of {covered['captions']}.",
        f"- The same without the object's own words: {covered['shared_contexts']} of {covered['contexts']}.",
    ]
    lines += [f"  - {count} objects: {text}" for text, count in covered["most_shared"]]
    rejected = ", ".join(f"{reason} {count}" for reason, count in covered["rejected"].items()) or "none"
    return "\n".join([*lines, f"- Drafts rejected: {rejected}.", ""])
