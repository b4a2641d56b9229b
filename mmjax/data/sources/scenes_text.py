"""Describes scenes in English, and writes captions that are nearly right: hard negatives.

A caption names everything its picture shows, and its numbers are exact, so whatever else it might say of
things, counts or places is false.
"""

from collections.abc import Iterator
from typing import NamedTuple

from mmjax.data.sources.scenes_spec import (
    COLORS,
    INVERSE,
    SHAPES,
    SIZES,
    TEXTURES,
    Rng,
    Scene,
    Thing,
    is_possible,
)

NEGATIVES = (
    *("rep_color", "rep_shape", "rep_size", "rep_texture", "count"),
    *("swap_color", "swap_texture", "swap_count", "swap_object", "relation", "order"),
)

_SYNONYMS = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "plain": ("", "solid"),
    "dotted": ("dotted", "spotted"),
    "hollow": ("hollow", "outlined"),
}
_RELATION_PHRASES = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "inside": ("inside", "within"),
    "in front of": ("in front of", "partly covering"),
}
_TEMPLATES = {
    "single": (
        *("{0}", "a picture of {0}", "there is {0}"),
        *("{0} and nothing else", "an image showing {0}"),
    ),
    "relation": (
        *("{0} {relation} {1}", "{0} is {relation} {1}"),
        *("a scene with {0} {relation} {1}", "{relation} {1} there is {0}"),
    ),
    "one group": ("{0}", "a picture with {0}", "exactly {0}", "an image of {0}"),
    "two groups": (
        "{0} and {1}",
        "a picture with {0} and {1}",
        "exactly {0} and {1}",
        "{0} together with {1}",
    ),
    "left to right": ("from left to right: {0}, {1}, {2}", "a row of {0}, {1} and {2} from the left"),
    "top to bottom": ("from top to bottom: {0}, {1}, {2}", "a stack of {0}, {1} and {2} from the top"),
}
NUMERALS = ("zero", "one", "two", "three", "four", "five", "six")
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}


class Wording(NamedTuple):
    """Every choice of words of a caption, independent of the scene: scenes in the same wording differ in
    what they state alone."""

    template: int
    relation: int
    names_sizes: bool  # single things have it named always
    synonyms: dict[str, str]


def draw_wording(rng: Rng) -> Wording:
    synonyms = {word: rng.choice(choices) for word, choices in _SYNONYMS.items()}
    return Wording(rng.below(20), rng.below(2), rng.below(4) > 0, synonyms)


def caption(scene: Scene, wording: Wording) -> str:
    """The scene in one sentence."""
    named = wording.names_sizes or scene.kind == "single"
    counts = scene.counts or (0,) * len(scene.things)
    phrases = [_phrase(*each, wording, named) for each in zip(scene.things, counts, strict=True)]
    match scene.kind:
        case "row":
            templates = _TEMPLATES[scene.relation]
        case "count":
            templates = _TEMPLATES["one group" if len(counts) == 1 else "two groups"]
        case _:
            templates = _TEMPLATES[scene.kind]
    # 20 divides by the number of templates of every kind, so each is as likely.
    template = templates[wording.template % len(templates)]
    if scene.kind != "relation":
        return template.format(*phrases)
    return template.format(*phrases, relation=_RELATION_PHRASES[scene.relation][wording.relation])


def _phrase(thing: Thing, count: int, wording: Wording, named: bool) -> str:
    """'two tiny dotted red hearts'; with an article instead of a numeral where count is 0."""
    synonyms = wording.synonyms
    texture = synonyms[thing.texture] if thing.texture in synonyms else thing.texture
    size = synonyms[thing.size] if named else ""
    shape = PLURALS[thing.shape] if count > 1 else thing.shape
    words = " ".join(word for word in (size, texture, thing.color, shape) if word)
    if count:
        return f"{NUMERALS[count]} {words}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def alternatives(kind: str, scene: Scene, wording: Wording, *, novel: bool | None) -> list[Scene]:
    """Every scene that differs from this one in one fact, of a kind of `NEGATIVES`.

    Only scenes that `novel` makes possible (see `is_possible`), so that the picture alone can tell them
    apart. The kinds `swap_*` and `order` put the words of the caption in another order; where a plural or
    an article would give them away they are left out.
    """
    found = [edit for edit in _edits(kind, scene, wording) if is_possible(edit, novel=novel)]
    if kind.startswith("swap_"):
        words = sorted(caption(scene, wording).split())
        found = [edit for edit in found if sorted(caption(edit, wording).split()) == words]
    return found


def changed(scene: Scene, wording: Wording, rng: Rng, *, novel: bool | None) -> Scene:
    """One of the `alternatives` of a random kind; every scene has some of `rep_shape`, for one."""
    kinds = list(NEGATIVES)
    while True:
        found = alternatives(kinds.pop(rng.below(len(kinds))), scene, wording, novel=novel)
        if found:
            return rng.choice(found)


def negatives(scene: Scene, wording: Wording, rng: Rng, *, novel: bool | None) -> tuple[tuple[str, str], ...]:
    """(kind, caption) of one of the `alternatives` of each kind that has any."""
    found = ((kind, alternatives(kind, scene, wording, novel=novel)) for kind in NEGATIVES)
    return tuple((kind, caption(rng.choice(scenes), wording)) for kind, scenes in found if scenes)


def _edits(kind: str, scene: Scene, wording: Wording) -> Iterator[Scene]:
    """Every way to change one fact of this kind, among them ways that no picture of the set has."""
    things, pair = scene.things, len(scene.things) == 2
    match kind:
        case "rep_color":
            yield from _replaced(scene, "color", COLORS)
        case "rep_shape":
            yield from _replaced(scene, "shape", SHAPES)
        case "rep_size":
            if wording.names_sizes or scene.kind == "single":
                yield from _replaced(scene, "size", SIZES)
        case "rep_texture":
            # "a red heart" is not false of a striped one: plain must be said.
            yield from _replaced(scene, "texture", TEXTURES if wording.synonyms["plain"] else TEXTURES[1:])
        case "count":
            for k, count in enumerate(scene.counts):
                for other in (count - 1, count + 1):
                    yield scene._replace(counts=scene.counts[:k] + (other,) + scene.counts[k + 1 :])
        case "swap_color" if pair:
            yield from _swapped(scene, "color")
        case "swap_texture" if pair:
            yield from _swapped(scene, "texture")
        case "swap_count" if scene.kind == "count" and pair:
            yield scene._replace(counts=scene.counts[::-1])
        case "swap_object" if scene.kind == "relation":
            yield scene._replace(things=things[::-1])
        case "relation" if scene.relation in INVERSE:
            yield scene._replace(relation=INVERSE[scene.relation])
        case "order" if scene.kind == "row":
            for order in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
                yield scene._replace(things=tuple(things[k] for k in order))


def _replaced(scene: Scene, field: str, values: tuple[str, ...]) -> Iterator[Scene]:
    """The scene with the field of one thing changed to one of the values."""
    for k, thing in enumerate(scene.things):
        for value in values:
            if value != getattr(thing, field):
                other = thing._replace(**{field: value})
                yield scene._replace(things=scene.things[:k] + (other,) + scene.things[k + 1 :])


def _swapped(scene: Scene, field: str) -> Iterator[Scene]:
    """The scene with the field exchanged between its two things, where that binds it to another shape."""
    first, second = scene.things
    value, other = getattr(first, field), getattr(second, field)
    if value != other and first.shape != second.shape:
        things = first._replace(**{field: other}), second._replace(**{field: value})
        yield scene._replace(things=things)
