"""The procedural world: identities as specs, their meshes as ordinary GLB files, their captions.

Every function is deterministic in its arguments, across processes as well.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
import trimesh
from PIL import Image

from models.miniature.creatures import CREATURES, Creature
from models.miniature.families import FAMILIES, Family, Roles
from models.miniature.meshes import Piece

KINDS: dict[str, Family | Creature] = {**FAMILIES, **CREATURES}
RIGID: tuple[str, ...] = tuple(sorted(FAMILIES))
POSABLE: tuple[str, ...] = tuple(sorted(CREATURES))
CATEGORIES: tuple[str, ...] = tuple(sorted(KINDS))
"""The rigid and the posable ones."""
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 30, 38),
    "orange": (250, 135, 20),
    "yellow": (250, 222, 40),
    "green": (40, 150, 55),
    "cyan": (60, 205, 215),
    "blue": (35, 70, 205),
    "purple": (125, 45, 165),
    "pink": (250, 130, 185),
    "white": (245, 245, 245),
    "black": (32, 32, 36),
}
PATTERNS: tuple[str, ...] = ("checked", "dotted", "plain", "striped")
PATTERN_NOUNS: dict[str, str] = {"checked": "checks", "dotted": "dots", "striped": "stripes"}
DETAILS: tuple[str, ...] = ("full", "open", "category")
VARIANTS = 100
"""Shape variants per family; two digits in the id."""

_TRIM_COLOUR = (78, 78, 84)
_TOO_CLOSE = frozenset(
    frozenset(pair)
    for pair in (
        ("red", "orange"),
        ("orange", "yellow"),
        ("red", "pink"),
        ("blue", "purple"),
        ("yellow", "white"),
        ("blue", "black"),
        ("purple", "black"),
        ("cyan", "white"),
        ("pink", "purple"),
        ("red", "purple"),
        ("orange", "pink"),
    )
)
COLOUR_PAIRS: tuple[tuple[str, str], ...] = tuple(
    pair for pair in itertools.permutations(sorted(COLOURS), 2) if frozenset(pair) not in _TOO_CLOSE
)
"""(primary, secondary) pairs that stay apart at 64 px, so that stripes in the secondary colour are seen."""


@dataclass(frozen=True, order=True)
class ObjectSpec:
    """One identity: `primary` colours the body, `secondary` its pattern and its second part."""

    category: str
    primary: str
    secondary: str
    pattern: str
    variant: int

    def __post_init__(self) -> None:
        if self.category not in KINDS:
            raise ValueError(f"category {self.category!r}; choose one of {', '.join(CATEGORIES)}")
        if (self.primary, self.secondary) not in COLOUR_PAIRS:
            raise ValueError(f"colours {self.primary!r}, {self.secondary!r}; choose a pair of COLOUR_PAIRS")
        if self.pattern not in PATTERNS:
            raise ValueError(f"pattern {self.pattern!r}; choose one of {', '.join(PATTERNS)}")
        if not 0 <= self.variant < VARIANTS:
            raise ValueError(f"variant {self.variant}; the range is 0 to {VARIANTS - 1}")

    @property
    def id(self) -> str:
        return f"{self.category}-{self.primary}-{self.secondary}-{self.pattern}-{self.variant:02d}"


def parse_id(object_id: str) -> ObjectSpec:
    """The spec whose `id` this is; ValueError for anything else."""
    fields = object_id.split("-")
    if len(fields) != 5 or not fields[4].isdecimal():
        raise ValueError(f"object id {object_id!r}; expected one like 'mug-red-blue-striped-03'")
    spec = ObjectSpec(*fields[:4], int(fields[4]))
    if spec.id != object_id:
        raise ValueError(f"object id {object_id!r}; written canonically it is {spec.id!r}")
    return spec


def all_specs(variants: int) -> list[ObjectSpec]:
    """Every object of the first `variants` shapes, sorted by id."""
    specs = (
        ObjectSpec(category, primary, secondary, pattern, variant)
        for category in CATEGORIES
        for primary, secondary in COLOUR_PAIRS
        for pattern in PATTERNS
        for variant in range(variants)
    )
    return sorted(specs, key=lambda spec: spec.id)


def sample_specs(n: int, seed: int, variants: int = VARIANTS, categories: Sequence[str] = RIGID) -> list[ObjectSpec]:
    """`n` distinct objects sorted by id; the counts of any two categories differ by one at most.

    Within a category colour pairs and patterns are drawn without bias. Raises ValueError when the world
    holds fewer than `n`.
    """
    room = len(categories) * len(COLOUR_PAIRS) * len(PATTERNS) * variants
    if n > room:
        raise ValueError(f"{n} objects asked of a world of {room}; raise `variants` (at most {VARIANTS})")
    rng = Random(f"specs-{seed}")
    order = sorted(categories)
    rng.shuffle(order)
    per_category = len(COLOUR_PAIRS) * len(PATTERNS) * variants
    specs = []
    for place, category in enumerate(order):
        share = n // len(order) + (place < n % len(order))
        for number in rng.sample(range(per_category), share):
            look, variant = divmod(number, variants)
            pair, pattern = divmod(look, len(PATTERNS))
            specs.append(ObjectSpec(category, *COLOUR_PAIRS[pair], PATTERNS[pattern], variant))
    return sorted(specs, key=lambda spec: spec.id)


@lru_cache(maxsize=512)
def _texture(pattern: str, primary: tuple[int, int, int], secondary: tuple[int, int, int]) -> Image.Image:
    """One cell of a pattern, sRGB; constant colours are textures as well, so all colours travel as sRGB."""
    if pattern == "plain":
        return Image.new("RGB", (8, 8), primary)
    size = 64
    x, y = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size)
    if pattern == "striped":
        marked = np.abs(y - 0.5) < 0.24
    elif pattern == "checked":
        marked = (x < 0.5) ^ (y < 0.5)
    else:
        marked = np.minimum(np.hypot(x - 0.25, y - 0.25), np.hypot(x - 0.75, y - 0.75)) < 0.22
    return Image.fromarray(np.where(marked[..., None], np.uint8(secondary), np.uint8(primary)))


def _mesh(piece: Piece, texture: Image.Image) -> trimesh.Trimesh:
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=0.9)
    return trimesh.Trimesh(
        vertices=piece.vertices,
        faces=piece.faces,
        vertex_normals=piece.normals,
        visual=trimesh.visual.TextureVisuals(uv=piece.uv, material=material),
        process=False,
    )


def build_roles(category: str, variant: int, pose: int = 0) -> Roles:
    """The pieces of one shape of a category by role, see `models.miniature.families`; creatures take a pose."""
    shape, kind = Random(f"{category}-{variant}"), KINDS[category]
    return kind.build(shape, Random(f"pose-{pose}")) if isinstance(kind, Creature) else kind.build(shape)


def make_scene(spec: ObjectSpec, pose: int = 0) -> trimesh.Scene:
    """The object as a scene of geometries `body`, `part` and perhaps `trim`; y up, not yet normalised.

    A creature stands in the pose of that number; rigid objects have one form only.
    """
    roles = build_roles(spec.category, spec.variant, pose)
    primary, secondary = COLOURS[spec.primary], COLOURS[spec.secondary]
    textures = {
        "body": _texture(spec.pattern, primary, secondary),
        "part": _texture("plain", secondary, secondary),
        "trim": _texture("plain", _TRIM_COLOUR, _TRIM_COLOUR),
    }
    return trimesh.Scene({role: _mesh(piece, textures[role]) for role, piece in roles.items()})


def export_glb(spec: ObjectSpec) -> bytes:
    """The object as a binary glTF file: equal bytes for equal specs."""
    return trimesh.exchange.gltf.export_glb(make_scene(spec), include_normals=True)


def with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def caption(spec: ObjectSpec, detail: str) -> str:
    """Describe an object.

    `full` binds each colour to its part ("a red mug with blue stripes and a blue handle"), `open` leaves
    the colours open ("a striped mug"), `category` names the category alone ("a mug").
    """
    if detail == "category":
        return with_article(spec.category)
    if detail == "open":
        return with_article(f"{spec.pattern} {spec.category}")
    if detail != "full":
        raise ValueError(f"caption detail {detail!r}; choose one of {', '.join(DETAILS)}")
    family = KINDS[spec.category]
    part = f"{spec.secondary} {family.part}"
    second = part if family.plural else with_article(part)
    first = with_article(f"{spec.primary} {spec.category}")
    if spec.pattern == "plain":
        return f"{first} with {second}"
    return f"{first} with {spec.secondary} {PATTERN_NOUNS[spec.pattern]} and {second}"
