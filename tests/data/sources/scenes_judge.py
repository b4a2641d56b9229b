"""A judge of captions: a parser that knows English words, and nothing of how the captions were written."""

import re
from typing import NamedTuple

from mmjax.data.sources.scenes_spec import COLORS, SHAPES

SPLITS = ("train", "val", "test", "novel")
WORDS = {
    **dict.fromkeys(("small", "little", "tiny"), "small"),
    **dict.fromkeys(("large", "big", "huge"), "large"),
    **{"solid": "plain", "": "plain", "striped": "striped", "dotted": "dotted", "spotted": "dotted"},
    **{"hollow": "hollow", "outlined": "hollow", "to the left of": "left of", "left of": "left of"},
    **{"to the right of": "right of", "right of": "right of", "above": "above", "over": "above"},
    **{"below": "below", "under": "below", "inside": "inside", "within": "inside"},
    **{"in front of": "in front of", "partly covering": "in front of"},
    **{"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6},
}
PHRASE = re.compile(
    r"\b(?P<count>an?|one|two|three|four|five|six) (?:(?P<size>small|little|tiny|large|big|huge) )?"
    r"(?:(?P<texture>solid|striped|dotted|spotted|hollow|outlined) )?"
    rf"(?P<color>{'|'.join(COLORS)}) (?P<shape>{'|'.join(SHAPES)})(?P<plural>e?s)?\b"
)
RELATION = re.compile(
    r"(?:to the )?left of|(?:to the )?right of|above|over|below|under|inside|within"
    r"|in front of|partly covering"
)
# What a kind of negative says otherwise, in the fields of `Said`.
CHANGED = {
    **{"rep_color": "colors", "rep_shape": "shapes", "rep_size": "sizes", "rep_texture": "textures"},
    **{"swap_color": "colors", "swap_texture": "textures", "swap_count": "counts"},
    **{"count": "counts", "relation": "relation"},
}


class Said(NamedTuple):
    """What a caption claims; a size is None where it is not said."""

    counts: tuple[int, ...]
    shapes: tuple[str, ...]
    colors: tuple[str, ...]
    sizes: tuple[str | None, ...]
    textures: tuple[str, ...]
    relation: str


def parse(text):
    """A caption as `Said`; fails where its English is wrong."""
    found = list(PHRASE.finditer(text))
    assert found, text
    counts = [WORDS[one["count"]] for one in found]
    assert all((one["plural"] is not None) == (count > 1) for one, count in zip(found, counts, strict=True))
    for one in found:
        if one["count"] in ("a", "an"):
            assert (one["count"] == "an") == (one[0].split()[1][0] in "aeiou"), text
    said, relation = PHRASE.sub("@", text), ""
    if "from left to right" in said or "from the left" in said:
        relation = "left to right"
    elif "from top to bottom" in said or "from the top" in said:
        relation = "top to bottom"
    elif between := RELATION.search(said):
        relation = WORDS[between[0]]
        if said.index("@") > between.start():  # "above a square there is a circle"
            found, counts = found[::-1], counts[::-1]
    return Said(
        tuple(counts),
        *(tuple(one[field] for one in found) for field in ("shape", "color")),
        tuple(WORDS[one["size"]] if one["size"] else None for one in found),
        tuple(WORDS[one["texture"] or ""] for one in found),
        relation,
    )


def is_true(said, scene):
    """Whether the picture of the scene is as said: all of its things are named, and no others."""
    counts = scene.counts or (1,) * len(scene.things)
    pictured = [(n, t.shape, t.color, t.size, t.texture) for n, t in zip(counts, scene.things, strict=True)]
    claimed = list(zip(said.counts, said.shapes, said.colors, said.sizes, said.textures, strict=True))
    fits = [[a[:3] == b[:3] and a[3] in (b[3], None) and a[4] == b[4] for b in pictured] for a in claimed]
    ordered = len(claimed) == len(pictured) and all(fits[k][k] for k in range(len(fits)))
    if scene.relation:
        return ordered and said.relation == scene.relation
    return ordered or (len(fits) == 2 == len(pictured) and fits[0][1] and fits[1][0])


def pairs_of(thing):
    """The combinations in a thing that the split `novel` may keep for itself."""
    yield thing.shape, thing.color
    if thing.texture != "plain":
        yield thing.shape, thing.texture
