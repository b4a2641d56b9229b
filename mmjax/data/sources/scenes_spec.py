"""What a scene is, as data: its vocabulary, the rules it keeps, and how one is drawn at random.

Nothing here knows of pixels or of sentences: `scenes_draw` paints a `Scene`, `scenes_text` describes it.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

SHAPES = (
    *("circle", "square", "triangle", "star", "heart", "cross", "ring"),
    *("diamond", "hexagon", "crescent", "arrow", "drop", "half-disc", "bolt"),
)
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink", "brown", "gray")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted", "hollow")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATIONS = (*INVERSE, "inside", "in front of")
DIRECTIONS = ("left to right", "top to bottom")
MAX_COUNT = 6  # of one group
MAX_COUNT_OF_TWO = 5  # of either of two groups; they differ, so that at most 9 things are shown

Kind = Literal["single", "relation", "count", "row"]
KIND_MIX: tuple[Kind, ...] = ("single",) * 2 + ("relation",) * 5 + ("count",) * 2 + ("row",)
TEXTURE_MIX = ("plain",) * 3 + ("striped", "dotted", "hollow")

_NUMBER = {word: i for words in (SHAPES, COLORS, TEXTURES) for i, word in enumerate(words)}
_WORD64 = (1 << 64) - 1
T = TypeVar("T")


class Thing(NamedTuple):
    shape: str
    color: str
    size: str
    texture: str


class Scene(NamedTuple):
    kind: Kind
    things: tuple[Thing, ...]
    counts: tuple[int, ...] = ()  # of each thing; kind "count" only
    relation: str = ""  # of the first thing to the second, or the direction in which a row is read


class Role(NamedTuple):
    """What a thing may be, given its part in the scene."""

    shapes: tuple[str, ...] = SHAPES
    sizes: tuple[str, ...] = SIZES
    textures: tuple[str, ...] = TEXTURES


_SMALL = Role(sizes=("small",))
_WIDE = ("circle", "square", "hexagon")  # with room for a small thing inside
_MASSIVE = tuple(shape for shape in SHAPES if shape not in ("ring", "crescent"))  # no gap to see through
_ROLES = {
    "inside": (_SMALL, Role(_WIDE, ("large",), ("hollow",))),
    # What covers is plain and what is covered is not hollow: otherwise one is seen through the other.
    "in front of": (Role(SHAPES, ("small",), ("plain",)), Role(_MASSIVE, ("large",), TEXTURES[:3])),
    **dict.fromkeys(INVERSE, (Role(), Role())),
}


class Rng:
    """Random numbers from a key of integers, the same on every platform.

    Splitmix64: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """

    __slots__ = ("state",)

    def __init__(self, *key: int):
        self.state = 0
        for part in key:
            self.state = mix64((self.state + part + 0x9E3779B97F4A7C15) & _WORD64)

    def below(self, n: int) -> int:
        """Uniform in [0, n), for n far below 2**53."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & _WORD64
        return (mix64(self.state) >> 11) % n

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]


def mix64(word):
    """The scrambling step of splitmix64: of an int in [0, 2**64), or of a uint64 array."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD64
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD64
    return word ^ (word >> 31)


def is_held_out(thing: Thing) -> bool:
    """Whether only the split `novel` shows the thing: 1/8 of all (shape, color) pairs and of all (shape,
    texture) pairs but the plain ones. Every shape, color and texture also occurs in other pairs."""
    shape, color, texture = _NUMBER[thing.shape], _NUMBER[thing.color], _NUMBER[thing.texture]
    return (7 * shape + 3 * color) % 8 == 0 or (texture > 0 and (5 * shape + 3 * texture) % 8 == 2)


def is_possible(scene: Scene, *, novel: bool | None) -> bool:
    """Whether a split could draw the scene: `novel`, the others (False), or any of them (None)."""
    things, counts = scene.things, scene.counts
    if novel is not None and any(is_held_out(thing) != novel for thing in things):
        return False
    if len({thing[:2] for thing in things}) < len(things):
        return False  # two things that differ in less than shape and color could be mistaken for each other
    if scene.relation in ("inside", "in front of") and things[0].color == things[1].color:
        return False  # they overlap
    if counts:
        most = MAX_COUNT if len(counts) == 1 else MAX_COUNT_OF_TWO
        if len(set(counts)) < len(counts) or min(counts) < 1 or max(counts) > most:
            return False
    return all(
        thing.shape in role.shapes and thing.size in role.sizes and thing.texture in role.textures
        for thing, role in zip(things, _roles(scene.kind, scene.relation, len(things)), strict=True)
    )


def draw_scene(rng: Rng, *, novel: bool, kind: Kind | None = None) -> Scene:
    """A random scene of the split `novel` or of the others; of any kind, mixed as `KIND_MIX`, if None."""
    kind = kind or rng.choice(KIND_MIX)
    relation, counts, n = "", (), 1
    if kind == "relation":
        relation, n = rng.choice(RELATIONS), 2
    elif kind == "row":
        relation, n = rng.choice(DIRECTIONS), 3
    elif kind == "count":
        n = 1 + rng.below(2)
        counts = tuple(1 + rng.below(MAX_COUNT if n == 1 else MAX_COUNT_OF_TWO) for _ in range(n))
        if n == 2 and counts[0] == counts[1]:
            counts = counts[0], counts[0] % MAX_COUNT_OF_TWO + 1
    while True:
        things = tuple(_draw_thing(rng, role, novel) for role in _roles(kind, relation, n))
        scene = Scene(kind, things, counts, relation)
        if is_possible(scene, novel=novel):
            return scene


def _roles(kind: Kind, relation: str, n: int) -> tuple[Role, ...]:
    if kind == "relation":
        return _ROLES[relation]
    return (Role() if kind == "single" else _SMALL,) * n  # several things must leave each other room


def _draw_thing(rng: Rng, role: Role, novel: bool) -> Thing:
    textures = TEXTURE_MIX if role.textures is TEXTURES else role.textures
    while True:
        shape, color = rng.choice(role.shapes), rng.choice(COLORS)
        thing = Thing(shape, color, rng.choice(role.sizes), rng.choice(textures))
        if is_held_out(thing) == novel:
            return thing
