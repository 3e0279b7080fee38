"""What a set of prompts covers: how many of each kind, how long, and what several objects share."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from data.records import PromptRecord
from models.prompts.validate import comparable

SHOWN = 5
"""Most shared captions that are listed."""


def coverage(records: Iterable[PromptRecord]) -> dict[str, Any]:
    """Counts over all records.

    kinds: by kind of caption: prompts, objects that have one, prompts per object (min, mean, max) and words per prompt
    (min, mean, max). shared_captions: captions that stand for more than one object. shared_contexts: the same with the
    object's own words taken out, so that "a red mug on a beach" and "a blue hat on a beach" share one. most_shared: the
    most common contexts with the number of their objects. rejected: drafts by reason.
    """
    records = list(records)
    counts: dict[str, list[int]] = defaultdict(list)
    words: dict[str, list[int]] = defaultdict(list)
    captions: dict[str, set[str]] = defaultdict(set)
    contexts: dict[str, set[str]] = defaultdict(set)
    for record in records:
        own = Counter(prompt.kind for prompt in record.prompts)
        for kind, count in own.items():
            counts[kind].append(count)
        for prompt in record.prompts:
            words[prompt.kind].append(len(prompt.text.split()))
            captions[comparable(prompt.text)].add(record.object_id)
            contexts[_context(prompt.text, record)].add(record.object_id)
    common = sorted(contexts.items(), key=lambda item: (-len(item[1]), item[0]))[:SHOWN]
    return {
        "objects": len(records),
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
        "shared_captions": sum(len(objects) > 1 for objects in captions.values()),
        "contexts": len(contexts),
        "shared_contexts": sum(len(objects) > 1 for objects in contexts.values()),
        "most_shared": [[text, len(objects)] for text, objects in common if len(objects) > 1],
        "rejected": dict(sorted(Counter(item.reason for record in records for item in record.rejected).items())),
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
