"""The posable creatures: shape parameters come from the variant's generator, the pose from another one.

Roles, axes and units as in `models.miniature.families`; a creature looks along +x. Its shape and colours are its
identity; how it stands, turns its head or holds its limbs is not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from models.miniature.families import Roles
from models.miniature.meshes import ORIGIN, Piece, Point, ball, cylinder, join, tube


@dataclass(frozen=True)
class Creature:
    """A posable family, the noun of its secondary part, and its builder from shape and pose."""

    part: str
    build: Callable[[Random, Random], Roles]
    plural: bool = True


def _turned(piece: Piece, about: Point, turn: Point) -> Piece:
    """Rotated by `turn` (degrees, as in `Piece.moved`) about a point."""
    x, y, z = about
    return piece.moved((-x, -y, -z)).moved(turn=turn).moved(about)


def _limb(start: Point, angle: float, length: float, radius: float, bend: float = 0.0) -> Piece:
    """A round limb in the x-y plane from `start`, at `angle` degrees from straight down towards +x; `bend` turns its
    lower half further."""
    x, y, z = start
    points = [start]
    for direction in (angle, angle + bend):
        x += length / 2 * math.sin(math.radians(direction))
        y -= length / 2 * math.cos(math.radians(direction))
        points.append((x, y, z))
    return join([tube(points, radius), ball(radius * 1.15, around=10).moved(points[-1])])


def _eyes(face: Point, apart: float, size: float) -> list[Piece]:
    x, y, z = face
    return [ball(size, around=10).moved((x, y, z + side * apart)) for side in (-1, 1)]


def _legs(pose: Random, x: float, hip: float, z: float, radius: float, swing: float = 32.0) -> list[Piece]:
    """Four legs in a step: those that stand crosswise swing together, each a little out of step."""
    phase = pose.uniform(-swing, swing)
    return [
        _limb((side * x, hip, across * z), side * across * phase + pose.uniform(-8, 8), hip, radius)
        for side in (-1, 1)
        for across in (-1, 1)
    ]


def bird(rng: Random, pose: Random) -> Roles:
    long, plump, head = rng.uniform(0.5, 0.62), rng.uniform(0.34, 0.42), rng.uniform(0.22, 0.27)
    span, leg = rng.uniform(0.7, 0.95), rng.uniform(0.3, 0.42)
    middle = leg + plump
    flap, fold = pose.uniform(-35, 70), pose.uniform(0.75, 1.1)
    wing = ball(0.5, 0.5, 18).moved((0, 0, 0.48), scale=(0.62, 0.16, 1.0)).moved(scale=(1, 1, span * fold))
    wings = [
        wing.moved((0, 0, plump * 0.6), (-flap, 0, 0)).moved((-0.05, middle + 0.1, 0)),
        wing.moved((0, 0, plump * 0.6), (-flap, 0, 0)).moved((-0.05, middle + 0.1, 0), (0, 180, 0)),
    ]
    neck = (long * 0.72, middle + plump * 0.55, 0.0)
    skull = ball(head, 0.5, 18).moved((long * 0.85, middle + plump * 0.8, 0))
    face = (long * 0.85 + head, middle + plump * 0.8, 0.0)
    beak = cylinder(0.11, 0.32, top=0.0, around=12).moved((face[0] - 0.04, face[1] - 0.03, 0), (0, 0, -90))
    look: Point = (0, pose.uniform(-60, 60), pose.uniform(-20, 25))
    tail = ball(0.3, around=14).moved((-long - 0.12, middle + 0.05, 0), (0, 0, pose.uniform(-30, 15)), (1.3, 0.3, 0.8))
    body = [ball(0.5, 0.5).moved((0, middle, 0), (0, 0, 18), (long / 0.5, plump / 0.5, plump / 0.5))]
    legs = [_limb((0.05, leg + 0.1, side * 0.13), pose.uniform(-25, 25), leg + 0.1, 0.055) for side in (-1, 1)]
    return {
        "body": join([*body, _turned(skull, neck, look)]),
        "part": join([*wings, tail, _turned(beak, neck, look)]),
        "trim": join(
            [*legs, *(_turned(eye, neck, look) for eye in _eyes((face[0] - 0.1, face[1] + 0.09, 0), 0.13, 0.05))]
        ),
    }


def elephant(rng: Random, pose: Random) -> Roles:
    long, girth, hip = rng.uniform(0.62, 0.74), rng.uniform(0.42, 0.5), rng.uniform(0.42, 0.55)
    head, ear = rng.uniform(0.3, 0.36), rng.uniform(0.36, 0.46)
    middle = hip + girth * 0.75
    neck = (long * 0.7, middle + 0.12, 0.0)
    centre = (long * 0.98, middle + 0.2, 0.0)
    lift, curl = pose.uniform(-10, 95), pose.uniform(-20, 70)
    path = [(centre[0] + head * 0.7, centre[1] - 0.05, 0.0)]
    for share in range(1, 6):
        angle = math.radians(lift + curl * share / 5)
        x, y, z = path[-1]
        path.append((x + 0.17 * math.sin(angle), y - 0.17 * math.cos(angle), z))
    trunk = join([tube(path, 0.1), ball(0.11, around=10).moved(path[-1])])
    flap = pose.uniform(10, 55)
    ears = [
        ball(0.5, around=18)
        .moved((-0.3 * ear, 0, 0), scale=(ear / 0.5, ear / 0.45, 0.18))
        .moved((centre[0] - 0.02, centre[1] + 0.06, side * (head * 0.9)), (0, side * flap, 0))
        for side in (-1, 1)
    ]
    look: Point = (0, pose.uniform(-40, 40), pose.uniform(-12, 15))
    body = ball(0.5, 0.5).moved((0, middle, 0), scale=(long / 0.5, girth / 0.5, girth / 0.5))
    tail = _limb((-long * 0.95, middle + 0.1, 0), pose.uniform(-60, -15), 0.4, 0.045)
    skull = [ball(head, 0.5, 20).moved(centre), trunk]
    return {
        "body": join(
            [body, *_legs(pose, long * 0.55, hip + 0.1, girth * 0.5, 0.15), *(_turned(p, neck, look) for p in skull)]
        ),
        "part": join([tail, *(_turned(each, neck, look) for each in ears)]),
        "trim": join(
            [_turned(eye, neck, look) for eye in _eyes((centre[0] + head * 0.8, centre[1] + 0.14, 0), 0.19, 0.05)]
        ),
    }


def giraffe(rng: Random, pose: Random) -> Roles:
    long, girth, hip = rng.uniform(0.42, 0.52), rng.uniform(0.25, 0.3), rng.uniform(0.62, 0.8)
    reach = rng.uniform(0.75, 1.0)
    middle = hip + girth * 0.5
    body = ball(0.5, 0.4).moved((0, middle, 0), scale=(long / 0.5, girth / 0.5, girth / 0.5))
    base = (long * 0.7, middle + 0.1, 0.0)
    neck = [
        cylinder(0.16, reach, 0.4, top=0.1),
        ball(0.15, 0.4, 16).moved((0.1, reach + 0.05, 0), scale=(1.7, 0.95, 0.9)),
    ]
    horns = [cylinder(0.035, 0.2, around=8).moved((0.0, reach + 0.12, side * 0.07)) for side in (-1, 1)]
    mane = cylinder(0.07, reach * 0.95, top=0.05).moved((-0.13, 0.05, 0))
    eyes = _eyes((0.2, reach + 0.12, 0), 0.1, 0.035)
    bow: Point = (0, pose.uniform(-35, 35), pose.uniform(-85, 5))

    def held(piece: Piece) -> Piece:
        return piece.moved(turn=(0, 0, bow[2])).moved(base, (0, bow[1], 0))

    tail = _limb((-long * 0.9, middle + 0.1, 0), pose.uniform(-55, -10), 0.45, 0.04)
    return {
        "body": join([body, *map(held, neck)]),
        "part": join([*_legs(pose, long * 0.6, hip + 0.05, girth * 0.55, 0.085), held(mane), tail]),
        "trim": join([held(piece) for piece in (*horns, *eyes)]),
    }


def monkey(rng: Random, pose: Random) -> Roles:
    tall, girth, head = rng.uniform(0.36, 0.46), rng.uniform(0.27, 0.34), rng.uniform(0.28, 0.34)
    leg, arm, ear = rng.uniform(0.34, 0.46), rng.uniform(0.62, 0.8), rng.uniform(0.11, 0.16)
    middle = leg + tall * 0.8
    shoulder, neck = middle + tall * 0.55, middle + tall * 0.8
    belly = ball(0.5, 0.5).moved((0, middle, 0), scale=(girth / 0.5, tall / 0.5, girth / 0.5))
    top = neck + head * 0.85
    skull = ball(head, 0.5, 20).moved((0, top, 0))
    muzzle = ball(head * 0.6, around=16).moved((head * 0.72, top - head * 0.25, 0), scale=(0.8, 0.7, 1.0))
    ears = [
        ball(ear, around=12).moved((0, top + 0.04, side * (head + ear * 0.5)), scale=(0.5, 1, 1)) for side in (-1, 1)
    ]
    eyes = _eyes((head * 0.86, top + head * 0.25, 0), head * 0.38, 0.05)
    look: Point = (0, pose.uniform(-60, 60), pose.uniform(-15, 15))
    limbs = []
    for side in (-1, 1):
        raised, forward = pose.uniform(15, 165), pose.uniform(-30, 60)
        own = _limb(ORIGIN, 0, arm, 0.085, pose.uniform(-70, 0)).moved(turn=(0, 0, forward))
        limbs.append(own.moved(turn=(-side * raised, 0, 0)).moved((0, shoulder, side * girth * 0.75)))
        step = _limb((0, leg + 0.1, side * 0.16), pose.uniform(-35, 45), leg, 0.1, pose.uniform(-40, 0))
        limbs.append(step)
    sway = pose.uniform(-40, 60)
    tail = tube(
        [
            (-girth * 0.8 - 0.12 * k, middle - 0.15 + 0.11 * k * math.sin(math.radians(sway + 20 * k)), 0.0)
            for k in range(6)
        ],
        0.05,
    )
    middle_of_head = (0.0, neck, 0.0)
    return {
        "body": join([belly, _turned(skull, middle_of_head, look)]),
        "part": join([*limbs, tail, *(_turned(piece, middle_of_head, look) for piece in (muzzle, *ears))]),
        "trim": join([_turned(eye, middle_of_head, look) for eye in eyes]),
    }


def octopus(rng: Random, pose: Random) -> Roles:
    wide, tall = rng.uniform(0.4, 0.5), rng.uniform(0.48, 0.66)
    count, reach = rng.choice((6, 8)), rng.uniform(0.75, 1.0)
    level = 0.34
    tilt: Point = (pose.uniform(-22, 22), 0, pose.uniform(-22, 22))
    base = (0.0, level, 0.0)
    dome = ball(0.5, 0.5).moved((0, level + tall * 0.75, 0), scale=(wide / 0.5, tall / 0.5, wide / 0.5))
    face = [ball(0.075, around=12).moved((wide * 0.86, level + tall * 0.62, side * 0.17)) for side in (-1, 1)]
    arms = []
    for number in range(count):
        rise, curl = pose.uniform(-25, 45), pose.uniform(-60, 110)
        points = [(wide * 0.45, level + 0.05, 0.0)]
        for share in range(1, 7):
            angle = math.radians(rise + curl * share / 6)
            x, y, z = points[-1]
            points.append((x + reach / 6 * math.cos(angle), max(0.05, y + reach / 6 * math.sin(angle)), z))
        arm = join([tube(points, 0.085), ball(0.09, around=10).moved(points[-1])])
        arms.append(arm.moved(turn=(0, 360 / count * number + pose.uniform(-14, 14), 0)))
    return {
        "body": _turned(dome, base, tilt),
        "part": join(arms),
        "trim": join([_turned(eye, base, tilt) for eye in face]),
    }


def rabbit(rng: Random, pose: Random) -> Roles:
    long, girth, head = rng.uniform(0.42, 0.5), rng.uniform(0.32, 0.38), rng.uniform(0.25, 0.3)
    ear, wide = rng.uniform(0.5, 0.75), rng.uniform(0.09, 0.13)
    hip = 0.2
    upright = pose.uniform(40, 75) if pose.random() < 0.4 else pose.uniform(-5, 25)
    rump = (-long * 0.4, hip + girth * 0.7, 0.0)
    body = ball(0.5, 0.5).moved((0, rump[1], 0), scale=(long / 0.5, girth / 0.5, girth / 0.5))
    neck = (long * 0.75, rump[1] + 0.14, 0.0)
    skull = ball(head, 0.5, 18).moved((neck[0] + 0.12, neck[1] + head * 0.6, 0), scale=(1.1, 1.0, 1.0))
    crown = (neck[0] + 0.04, neck[1] + head * 1.35, 0.0)
    ears = [
        ball(0.5, around=14)
        .moved((0, 0.46, 0), scale=(0.16, 1.0, wide / 0.5))
        .moved(scale=(1, ear, 1), turn=(side * pose.uniform(2, 45), 0, pose.uniform(-15, 75)))
        .moved((crown[0], crown[1] - 0.06, side * 0.1))
        for side in (-1, 1)
    ]
    eyes = _eyes((neck[0] + 0.12 + head * 0.85, neck[1] + head * 0.85, 0), head * 0.5, 0.045)
    look: Point = (0, pose.uniform(-55, 55), -upright * 0.8 + pose.uniform(-15, 15))
    lift: Point = (0, 0, upright)
    paws = [
        _limb((long * 0.55, rump[1] - 0.05, side * girth * 0.5), pose.uniform(-10, 45) - upright * 0.4, 0.42, 0.08)
        for side in (-1, 1)
    ]
    feet = [
        ball(0.16, around=12).moved((rump[0] + 0.16, 0.12, side * girth * 0.7), scale=(1.9, 0.75, 0.75))
        for side in (-1, 1)
    ]
    puff = ball(0.15, around=12).moved((-long - 0.04, rump[1] + 0.02, 0))

    def raised(piece: Piece) -> Piece:
        return _turned(piece, rump, lift)

    return {
        "body": join([raised(piece) for piece in (body, _turned(skull, neck, look))]),
        "part": join(
            [*feet, *(raised(piece) for piece in (puff, *paws, *(_turned(each, neck, look) for each in ears)))]
        ),
        "trim": join([raised(_turned(eye, neck, look)) for eye in eyes]),
    }


CREATURES: dict[str, Creature] = {
    "bird": Creature("wings", bird),
    "elephant": Creature("ears", elephant),
    "giraffe": Creature("legs", giraffe),
    "monkey": Creature("arms", monkey),
    "octopus": Creature("tentacles", octopus),
    "rabbit": Creature("ears", rabbit),
}
