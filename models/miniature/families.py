"""The mesh families: each builds one object from shape parameters drawn from its variant's generator.

A family returns its pieces by role: `body` (primary colour and pattern), `part` (secondary colour) and, for
some, `trim` (dark grey: wheels, eyes). y is up, the front looks along +z or +x.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from models.miniature.meshes import Piece, arc, ball, box, cylinder, join, prism, revolve, tube

Roles = dict[str, Piece]


@dataclass(frozen=True)
class Family:
    """A mesh family and the noun of its secondary part ("handle"; plural nouns take no article)."""

    part: str
    build: Callable[[Random], Roles]
    plural: bool = False


def _mirror_x(make: Callable[[float], Piece]) -> list[Piece]:
    return [make(-1.0), make(1.0)]


def _corners(x: float, z: float) -> list[tuple[float, float]]:
    return [(-x, -z), (-x, z), (x, -z), (x, z)]


def mug(rng: Random) -> Roles:
    height, lower, upper = rng.uniform(0.95, 1.45), rng.uniform(0.38, 0.52), rng.uniform(0.46, 0.56)
    wall = 0.05
    body = revolve(
        [(0, 0), (lower, 0), (upper, height), (upper - wall, height), (lower - wall, 0.08), (0, 0.08)], height / 2
    )
    reach, swing = rng.uniform(0.3, 0.42), height * 0.3
    curve = arc(((lower + upper) / 2, height / 2, 0), (reach, swing), -72, 72)
    ends = [
        (lower + (upper - lower) * share - 0.02, height / 2 + side * swing, 0.0)
        for side, share in ((-1, 0.2), (1, 0.8))
    ]
    handle = tube([ends[0], *curve, ends[1]], 0.085)
    return {"body": body, "part": handle}


def teapot(rng: Random) -> Roles:
    flat = rng.uniform(0.72, 0.95)
    body = ball(0.6, 0.62).moved(scale=(1, flat, 1)).moved((0, 0.55 * flat, 0))
    top = 1.12 * flat
    lid = [cylinder(0.26, 0.08).moved((0, top - 0.04, 0)), ball(0.1, around=12).moved((0, top + 0.12, 0))]
    lift = rng.uniform(0.3, 0.5)
    spout = tube([(0.45, 0.35, 0), (0.72, 0.5, 0), (0.85, 0.5 + lift * 0.6, 0), (1.02, 0.55 + lift, 0)], 0.1)
    handle = tube(arc((-0.5, 0.55 * flat, 0), (0.42, 0.4), 80, 280), 0.075)
    return {"body": body, "part": join([spout, handle, *lid])}


def bottle(rng: Random) -> Roles:
    radius, tall, neck = rng.uniform(0.26, 0.4), rng.uniform(0.75, 1.1), rng.uniform(0.11, 0.15)
    shoulder = tall + rng.uniform(0.2, 0.4)
    top = shoulder + rng.uniform(0.2, 0.4)
    curve = [(neck + (radius - neck) * math.cos(math.radians(a)), tall + (shoulder - tall) * a / 90) for a in (30, 60)]
    profile = [(0, 0), (radius, 0), (radius, tall), *curve, (neck, shoulder), (neck, top), (0, top)]
    cap = cylinder(neck + 0.06, 0.24).moved((0, top - 0.08, 0))
    return {"body": revolve(profile, tall / 2), "part": cap}


def lamp(rng: Random) -> Roles:
    pole, wide, narrow = rng.uniform(0.75, 1.1), rng.uniform(0.48, 0.62), rng.uniform(0.2, 0.34)
    high = rng.uniform(0.5, 0.68)
    shade = revolve(
        [(wide - 0.04, 0.02), (wide, 0), (narrow, high), (narrow - 0.04, high), (wide - 0.04, 0.02)], high / 2
    ).moved((0, pole, 0))
    foot = rng.uniform(0.3, 0.42)
    stand = join([cylinder(foot, 0.12, top=foot * 0.8), cylinder(0.07, pole + high * 0.7)])
    return {"body": shade, "part": stand}


def chair(rng: Random) -> Roles:
    wide, seat, back = rng.uniform(0.8, 1.0), rng.uniform(0.55, 0.75), rng.uniform(0.75, 1.05)
    body = join(
        [
            box((wide, 0.14, 0.9), (0, seat, 0), 0.4),
            box((wide, back, 0.13), (0, seat + back / 2, -0.4), 0.4),
        ]
    )
    legs = [box((0.13, seat, 0.13), (x, seat / 2 - 0.05, z)) for x, z in _corners(wide / 2 - 0.08, 0.36)]
    return {"body": body, "part": join(legs)}


def table(rng: Random) -> Roles:
    wide, deep, high = rng.uniform(1.3, 1.7), rng.uniform(0.85, 1.1), rng.uniform(0.7, 0.95)
    legs = [box((0.14, high, 0.14), (x, high / 2, z)) for x, z in _corners(wide / 2 - 0.12, deep / 2 - 0.12)]
    if rng.random() < 0.5:
        top = box((wide, 0.2, deep), (0, high, 0), 0.5)
    else:
        top = cylinder(wide / 2, 0.2, 0.6, around=28).moved((0, high - 0.1, 0), scale=(1, 1, 0.8))
    return {"body": top, "part": join(legs)}


def house(rng: Random) -> Roles:
    wide, deep, high = rng.uniform(0.95, 1.25), rng.uniform(0.9, 1.3), rng.uniform(0.65, 0.85)
    walls = box((wide, high, deep), (0, high / 2, 0), 0.42)
    peak, eave = rng.uniform(0.45, 0.7), wide / 2 + 0.12
    roof = prism([(-eave, high - 0.04), (eave, high - 0.04), (0, high + peak)], deep + 0.2)
    chimney = box((0.18, 0.5, 0.18), (wide * 0.27, high + peak * 0.6, -deep * 0.2))
    door = [box((0.26, 0.44, 0.04), (0, 0.22, s * deep / 2)) for s in (-1, 1)]
    windows = [box((0.04, 0.24, 0.28), (s * wide / 2, high * 0.55, 0)) for s in (-1, 1)]
    return {"body": walls, "part": join([roof, chimney]), "trim": join([*door, *windows])}


def car(rng: Random) -> Roles:
    long, high, deep = rng.uniform(1.6, 2.0), rng.uniform(0.32, 0.42), rng.uniform(0.72, 0.85)
    nose = rng.uniform(0.02, 0.14)
    body = prism(
        [
            (-long / 2, 0.18),
            (long / 2, 0.18),
            (long / 2, 0.18 + high * 0.8),
            (long / 2 - nose * 2, 0.18 + high),
            (-long / 2 + nose, 0.18 + high),
            (-long / 2, 0.18 + high * 0.85),
        ],
        deep,
        0.5,
    )
    roof, low = rng.uniform(0.3, 0.42), 0.17 + high
    left, right = -long * rng.uniform(0.28, 0.42), long * rng.uniform(0.16, 0.26)
    cabin = prism([(left, low), (right, low), (right - 0.22, low + roof), (left + 0.14, low + roof)], deep * 0.86)
    wheel = cylinder(rng.uniform(0.2, 0.25), 0.16).moved(turn=(90, 0, 0))
    wheels = [wheel.moved((x, 0.2, z)) for x in (-long * 0.3, long * 0.3) for z in (-deep / 2 - 0.04, deep / 2 - 0.12)]
    return {"body": body, "part": cabin, "trim": join(wheels)}


def boat(rng: Random) -> Roles:
    long, high, deep = rng.uniform(1.4, 1.8), rng.uniform(0.34, 0.46), rng.uniform(0.5, 0.65)
    rake = rng.uniform(0.15, 0.35)
    hull = prism([(-long / 2 + rake, 0), (long / 2 - rake * 1.4, 0), (long / 2, high), (-long / 2, high)], deep, 0.3)
    mast = rng.uniform(1.1, 1.5)
    sails = [
        prism([(0.06, high + 0.14), (long * 0.46, high + 0.14), (0.06, high + mast)], 0.1),
        prism([(-0.06, high + 0.14), (-0.06, high + mast * 0.85), (-long * 0.36, high + 0.14)], 0.1),
    ]
    pole = cylinder(0.05, mast + 0.1).moved((0, high - 0.05, 0))
    return {"body": hull, "part": join(sails), "trim": pole}


def plane(rng: Random) -> Roles:
    long, girth = rng.uniform(1.4, 1.7), rng.uniform(0.2, 0.27)
    profile = [(0, 0), (girth * 0.4, 0), (girth, long * 0.4), (girth, long * 0.8), (girth * 0.75, long * 0.93)]
    fuselage = revolve([*profile, (0, long)], 0.6).moved((0, 0, -long / 2), (90, 0, 0))
    span, chord, sweep = rng.uniform(0.75, 0.95), rng.uniform(0.44, 0.56), rng.uniform(0.05, 0.3)
    wings = [
        prism(
            [(0.02, 0.12), (0.02, 0.12 + chord), (-span, 0.12 - sweep + chord * 0.6), (-span, 0.12 - sweep)], 0.12
        ).moved(turn=(90, 0, 0)),
        prism(
            [(-0.02, 0.12), (span, 0.12 - sweep), (span, 0.12 - sweep + chord * 0.6), (-0.02, 0.12 + chord)], 0.12
        ).moved(turn=(90, 0, 0)),
    ]
    tail = -long / 2
    fins = [
        box((0.8, 0.1, 0.3), (0, 0.02, tail + 0.15)),
        prism([(0, 0), (0.34, 0), (0.1, 0.5), (-0.06, 0.5)], 0.12).moved((0, girth * 0.3, tail), (0, -90, 0)),
    ]
    return {"body": fuselage, "part": join([*wings, *fins])}


def rocket(rng: Random) -> Roles:
    radius, tall, nose = rng.uniform(0.24, 0.34), rng.uniform(0.85, 1.15), rng.uniform(0.4, 0.6)
    body = revolve([(0, 0), (radius * 0.75, 0), (radius, tall * 0.35), (radius, tall), (0, tall)], tall / 2.2)
    tip = revolve([(0, 0), (radius + 0.03, 0), (radius * 0.8, nose * 0.45), (0.03, nose), (0, nose)])
    reach, count = rng.uniform(0.26, 0.38), rng.choice((3, 4))
    fin = prism([(radius * 0.7, 0.1), (radius + reach, -0.25), (radius + reach, 0.08), (radius * 0.9, 0.55)], 0.1)
    fins = [fin.moved(turn=(0, 360 * k / count, 0)) for k in range(count)]
    return {"body": body, "part": join([tip.moved((0, tall, 0)), *fins])}


def hat(rng: Random) -> Roles:
    brim, crown, tall = rng.uniform(0.75, 0.95), rng.uniform(0.42, 0.5), rng.uniform(0.55, 0.95)
    taper = rng.uniform(0.8, 1.0)
    top = revolve(
        [(0, 0), (crown, 0), (crown * taper, tall), (crown * taper * 0.6, tall + 0.05), (0, tall)], tall / 1.5
    ).moved((0, 0.05, 0))
    rim = revolve([(0, 0), (brim, 0.03), (brim, 0.09), (crown, 0.09), (0, 0.09)])
    return {"body": top, "part": rim}


def mushroom(rng: Random) -> Roles:
    wide, dome, tall = rng.uniform(0.6, 0.8), rng.uniform(0.45, 0.65), rng.uniform(0.5, 0.75)
    rise = [(wide * math.cos(math.radians(a)), dome * math.sin(math.radians(a))) for a in range(0, 90, 10)]
    cap = revolve([(0, 0), *rise, (0, dome)], 0.6).moved((0, tall, 0))
    stem = revolve([(0, 0), (0.3, 0), (0.2, tall * 0.5), (0.22, tall + 0.02), (0, tall + 0.02)])
    return {"body": cap, "part": stem}


def duck(rng: Random) -> Roles:
    long, head, neck = rng.uniform(0.62, 0.76), rng.uniform(0.3, 0.37), rng.uniform(0.62, 0.78)
    body = [
        ball(0.5, 0.55).moved((0, 0.42, 0), scale=(long / 0.5, 0.84, 0.95)),
        ball(head, 0.55, 20).moved((long * 0.55, neck + 0.22, 0)),
        cylinder(0.26, 0.5, top=0.04, around=12).moved((-long * 0.62, 0.5, 0), (0, 0, 55)),
    ]
    face = long * 0.55 + head
    beak = ball(0.2, around=14).moved((face + 0.06, neck + 0.17, 0), scale=(1.15, 0.5, 1.0))
    wings = [ball(0.3, around=16).moved((-0.08, 0.48, s * 0.42), scale=(1.25, 0.7, 0.42)) for s in (-1, 1)]
    eyes = [ball(0.06, around=10).moved((face - 0.1, neck + 0.36, s * 0.17)) for s in (-1, 1)]
    return {"body": join(body), "part": join([beak, *wings]), "trim": join(eyes)}


def robot(rng: Random) -> Roles:
    wide, tall, deep = rng.uniform(0.75, 0.95), rng.uniform(0.6, 0.78), rng.uniform(0.5, 0.62)
    skull = rng.uniform(0.42, 0.54)
    leg = rng.uniform(0.36, 0.5)
    neck = leg + tall
    body = [
        box((wide, tall, deep), (0, leg + tall / 2, 0), 0.5),
        box((skull * 1.15, skull, skull), (0, neck + skull / 2 + 0.06, 0), 0.5),
    ]
    limbs = [
        *_mirror_x(lambda s: box((0.2, tall * 0.95, 0.26), (s * (wide / 2 + 0.11), leg + tall * 0.48, 0))),
        *_mirror_x(lambda s: box((0.28, leg, 0.34), (s * wide * 0.26, leg / 2, 0.03))),
        cylinder(0.035, 0.2).moved((0, neck + skull, 0)),
        ball(0.08, around=10).moved((0, neck + skull + 0.24, 0)),
    ]
    eyes = _mirror_x(lambda s: box((0.11, 0.11, 0.04), (s * skull * 0.28, neck + skull * 0.68, skull / 2)))
    return {"body": join(body), "part": join(limbs), "trim": join(eyes)}


def snowman(rng: Random) -> Roles:
    low, middle, head = rng.uniform(0.48, 0.58), rng.uniform(0.34, 0.42), rng.uniform(0.24, 0.3)
    second = low * 1.75 + middle * 0.5
    third = second + middle * 0.75 + head * 0.7
    body = [
        ball(low, 0.5).moved((0, low * 0.92, 0)),
        ball(middle, 0.5, 20).moved((0, second, 0)),
        ball(head, 0.5, 18).moved((0, third, 0)),
    ]
    brow, tall = third + head * 0.6, rng.uniform(0.3, 0.45)
    scarf = cylinder(head * 1.25, 0.13).moved((0, third - head - 0.02, 0))
    top_hat = [cylinder(head * 1.3, 0.07).moved((0, brow, 0)), cylinder(head * 0.85, tall).moved((0, brow, 0))]
    eyes = _mirror_x(lambda s: ball(0.05, around=8).moved((s * 0.1, third + 0.06, head * 0.9)))
    return {"body": join(body), "part": join([scarf, *top_hat]), "trim": join(eyes)}


def umbrella(rng: Random) -> Roles:
    wide, dome, tall = rng.uniform(0.8, 1.0), rng.uniform(0.38, 0.58), rng.uniform(0.95, 1.2)
    angles = range(0, 90, 10)
    outer = [(wide * math.cos(math.radians(a)), dome * math.sin(math.radians(a))) for a in angles]
    inner = [(0.95 * r, 0.9 * h) for r, h in reversed(outer)]
    canopy = revolve([*outer, (0, dome), (0, dome * 0.9), *inner, outer[0]], 0.65).moved((0, tall, 0))
    hook = rng.uniform(0.12, 0.18)
    path = [*arc((hook, hook, 0), (hook, hook), 360, 180, 10), (0, tall * 0.5, 0), (0, tall + dome + 0.14, 0)]
    return {"body": canopy, "part": tube(path, 0.055)}


def guitar(rng: Random) -> Roles:
    low, high, waist = rng.uniform(0.58, 0.68), rng.uniform(0.42, 0.5), rng.uniform(0.32, 0.37)
    right = [(0, 0), (low * 0.6, 0.05), (low * 0.95, 0.22), (low, 0.42), (low * 0.8, 0.62), (waist, 0.76)]
    right += [(high * 0.95, 0.92), (high, 1.05), (high * 0.75, 1.2), (high * 0.3, 1.27)]
    outline = [*right, *[(-x, y) for x, y in reversed(right[1:])]]
    body = prism(outline, rng.uniform(0.34, 0.42), 0.6)
    neck = rng.uniform(0.55, 0.75)
    fret = box((0.2, neck + 0.35, 0.16), (0, 1.0 + neck / 2 + 0.1, 0.14))
    head = box((0.36, 0.3, 0.16), (0, 1.25 + neck + 0.1, 0.14))
    hole = cylinder(0.16, 0.24).moved((0, 0.74, 0), (90, 0, 0))
    bridge = box((0.44, 0.1, 0.24), (0, 0.34, 0.12))
    return {"body": body, "part": join([fret, head]), "trim": join([hole, bridge])}


def balloon(rng: Random) -> Roles:
    radius, drop = rng.uniform(0.6, 0.72), rng.uniform(0.45, 0.65)
    rise = [(radius * math.cos(math.radians(a)), radius * math.sin(math.radians(a))) for a in range(-30, 90, 10)]
    mouth = -radius * 0.5 - drop * 0.8
    envelope = revolve([(0, mouth), (0.16, mouth), *rise, (0, radius)], 0.62).moved((0, drop + 1.0, 0))
    side, low = rng.uniform(0.34, 0.42), 1.0 + drop + mouth
    basket = box((side, 0.3, side), (0, low - 0.3, 0))
    ropes = [box((0.04, 0.3, 0.04), (x, low - 0.05, z)) for x, z in _corners(side * 0.4, side * 0.4)]
    return {"body": envelope, "part": join([basket, *ropes])}


def trophy(rng: Random) -> Roles:
    wide, tall, stem = rng.uniform(0.42, 0.52), rng.uniform(0.7, 0.9), rng.uniform(0.22, 0.38)
    foot = 0.24 + stem
    cup = revolve(
        [
            (0, foot - 0.02),
            (0.14, foot),
            (wide * 0.75, foot + tall * 0.25),
            (wide * 0.95, foot + tall * 0.6),
            (wide, foot + tall),
            (wide - 0.06, foot + tall),
            (wide * 0.7, foot + tall * 0.3),
            (0, foot + 0.12),
        ],
        tall / 2,
    )
    base = [cylinder(0.42, 0.22, top=0.36), cylinder(0.1, stem + 0.1).moved((0, 0.18, 0))]
    reach = rng.uniform(0.2, 0.28)
    level = foot + tall * 0.62
    ears = [
        tube(arc((wide * 0.88, level, 0), (reach, tall * 0.26), -100, 80), 0.065),
        tube(arc((-wide * 0.88, level, 0), (reach, tall * 0.26), 100, 280), 0.065),
    ]
    return {"body": cup, "part": join([*base, *ears])}


def train(rng: Random) -> Roles:
    long, girth = rng.uniform(1.0, 1.3), rng.uniform(0.27, 0.33)
    boiler = cylinder(girth, long, 0.55, around=24).moved((-0.1, 0.3 + girth, 0), (0, 0, -90))
    deck = box((long + 0.6, 0.14, 0.6), (long / 2 - 0.35, 0.28, 0), 0.45)
    cab_high = rng.uniform(0.85, 1.05)
    cab = [
        box((0.5, cab_high, 0.66), (-0.32, 0.25 + cab_high / 2, 0)),
        box((0.66, 0.1, 0.8), (-0.32, 0.28 + cab_high, 0)),
        cylinder(0.09, rng.uniform(0.35, 0.5), top=0.15).moved((long * 0.72, 0.25 + 2 * girth, 0)),
    ]
    wheel = cylinder(0.19, 0.14).moved(turn=(90, 0, 0))
    wheels = [wheel.moved((x, 0.17, z)) for x in (-0.35, long * 0.3, long * 0.72) for z in (-0.36, 0.22)]
    return {"body": join([boiler, deck]), "part": join(cab), "trim": join(wheels)}


def gift(rng: Random) -> Roles:
    wide, tall, deep = rng.uniform(0.85, 1.1), rng.uniform(0.65, 1.0), rng.uniform(0.85, 1.1)
    body = box((wide, tall, deep), (0, tall / 2, 0), 0.6)
    band = 0.17
    ribbon = [
        box((wide + 0.04, tall + 0.04, band), (0, tall / 2, 0)),
        box((band, tall + 0.04, deep + 0.04), (0, tall / 2, 0)),
        *_mirror_x(lambda s: ball(0.2, around=14).moved((s * 0.2, tall + 0.16, 0), (0, 0, s * 30), (1.2, 0.7, 0.6))),
    ]
    return {"body": body, "part": join(ribbon)}


def lighthouse(rng: Random) -> Roles:
    low, high, tall = rng.uniform(0.36, 0.46), rng.uniform(0.2, 0.27), rng.uniform(1.2, 1.6)
    tower = cylinder(low, tall, tall / 2.1, top=high, around=24)
    crown = [
        cylinder(high + 0.12, 0.09).moved((0, tall, 0)),
        cylinder(high + 0.06, 0.3, top=0.0).moved((0, tall + 0.36, 0)),
    ]
    lantern = cylinder(high * 0.75, 0.3).moved((0, tall + 0.08, 0))
    return {"body": tower, "part": join(crown), "trim": lantern}


FAMILIES: dict[str, Family] = {
    "balloon": Family("basket", balloon),
    "boat": Family("sails", boat, plural=True),
    "bottle": Family("cap", bottle),
    "car": Family("roof", car),
    "chair": Family("legs", chair, plural=True),
    "duck": Family("wings", duck, plural=True),
    "gift": Family("ribbon", gift),
    "guitar": Family("neck", guitar),
    "hat": Family("brim", hat),
    "house": Family("roof", house),
    "lamp": Family("stand", lamp),
    "lighthouse": Family("top", lighthouse),
    "mug": Family("handle", mug),
    "mushroom": Family("stem", mushroom),
    "plane": Family("wings", plane, plural=True),
    "robot": Family("arms", robot, plural=True),
    "rocket": Family("fins", rocket, plural=True),
    "snowman": Family("hat", snowman),
    "table": Family("legs", table, plural=True),
    "teapot": Family("handle", teapot),
    "train": Family("cab", train),
    "trophy": Family("base", trophy),
    "umbrella": Family("pole", umbrella),
}
