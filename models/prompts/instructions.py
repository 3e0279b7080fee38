"""What a language model is asked for, in this project's own words; kinds and examples after thesis appendix C.1.1."""

from data.assets.captions import head_noun, with_article
from models.prompts.chat import Message
from models.prompts.writer import Ask

ROLE = (
    "You write captions of pictures for a dataset. You answer with a numbered list of captions, one a line, and with "
    "nothing before or after it."
)

_TASKS = {
    "scene": "{count} of {subject}, each in a different place",
    "other_object": "{count} of {subject} together with one other thing, a different thing in each",
    "style": "{count} of {subject}, each made in a different way of making pictures, such as a kind of painting, "
    "drawing, print or sculpture",
    "background": "{count} of {subject}, each in a different place",
    "property": "{count} of {subject} with one property of it changed, such as its colour or its material, a "
    "different change in each",
    "appearance": "{count}, each of another {subject}. Say what this one looks like: breed or species, colours, "
    "markings, and the shape of its parts. Leave out where it is and what it does",
}
_RULES = (
    "Name the {noun} in every caption.",
    "Say only what can be seen in the picture: no opinion, no feeling, nothing that somebody might think of it.",
    "Use one or two short sentences a caption, {words} words at most.",
)
_KEEP_LOOKS = "Take the {noun} as it is described; add nothing to its looks."
_EXAMPLES = {
    "scene": (
        (
            "a white plastic bottle",
            "A white plastic bottle on wet cobblestones in front of a brick wall.",
            "A white plastic bottle stands on the deck of a wooden boat.",
        ),
        (
            "a blue truck",
            "A blue truck parked in a field of stubble, with a barn behind it.",
            "A blue truck on a mountain road in fog.",
        ),
    ),
    "other_object": (
        (
            "a white plastic bottle",
            "A white plastic bottle next to a bowl of oranges on a kitchen table.",
            "A white plastic bottle leans against a pair of hiking boots on grass.",
        ),
        (
            "a blue truck",
            "A blue truck beside a stack of hay bales.",
            "A blue truck with a bicycle in front of it on a gravel yard.",
        ),
    ),
    "style": (
        ("a horse", "A charcoal drawing of a horse on grey paper.", "A horse as a small bronze figure on a shelf."),
        ("a bird", "A bird in a woodcut print with thick black lines.", "A watercolour of a bird on a branch."),
    ),
    "property": (
        ("a white plastic bottle", "A green plastic bottle on a table.", "A white bottle made of glass on a table."),
        ("a blue truck", "A yellow truck on a road.", "A blue truck made of wood on a floor."),
    ),
    "appearance": (
        (
            "horse",
            "The Haflinger horse has a chestnut coat, a pale cream mane and tail, and a white blaze down its face.",
            "A black Friesian horse with a long wavy mane and feathered hair above its hooves.",
        ),
        (
            "parrot",
            "The scarlet macaw parrot is red, with yellow and blue bands on its wings and a white face.",
            "A grey parrot with a short bright red tail and a black beak.",
        ),
    ),
}
_EXAMPLES["background"] = _EXAMPLES["scene"]


def conversation(ask: Ask, max_words: int) -> tuple[Message, ...]:
    """The message that asks a language model for `ask.n` captions; one, since not every chat template has a system."""
    subject = ask.object_caption.strip().rstrip(".")
    noun = ask.category or head_noun(subject)
    if ask.kind == "appearance":
        kind = str(ask.attributes.get("kind") or noun)
        subject = kind if noun.lower() in kind.lower() else f"{kind} {noun}"
    count = "one caption" if ask.n == 1 else f"{ask.n} captions"
    rules = [rule.format(noun=noun, words=max_words) for rule in _RULES]
    if ask.kind not in ("appearance", "property"):
        rules.append(_KEEP_LOOKS.format(noun=noun))
    if ask.avoid:
        rules.append("Do not repeat what is there already:" + "".join(f"\n  - {caption}" for caption in ask.avoid))
    lines = [ROLE, "", f"Write {_TASKS[ask.kind].format(count=count, subject=subject)}.", "", "Rules:"]
    lines += [f"- {rule}" for rule in rules]
    for name, *captions in _EXAMPLES[ask.kind]:
        lines += ["", f'Two examples for "{name}":']
        lines += [f"{number}. {caption}" for number, caption in enumerate(captions, start=1)]
    lines += ["", f'Now write {count} for "{with_article(subject) if ask.kind == "appearance" else subject}".']
    return ({"role": "user", "content": "\n".join(lines)},)
