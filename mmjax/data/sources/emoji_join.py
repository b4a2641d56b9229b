"""Which emoji there are, which icon of which style draws one, and which split a drawing belongs to.

Pure functions of the packages' contents. A **concept** is one emoji of emojibase without skin tones and
components; a **drawing** is one style's picture of one concept.
"""

import collections
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

VERSION = "1.0.0"  # of the rules that make the data set out of the packages
NAMES_FILE = "names.json"  # the names in other languages

SPLITS = ("train", "val_concept", "val_style", "val_both", "flags")

HELD_OUT_PERCENT = 10  # of the groups of names

_NO_GROUP, _COMPONENTS, _FLAGS = None, 2, 9  # emojibase's groups
# Words that tell variants of one emoji apart; what is left is the same for all of them.
_VARIANTS = dict.fromkeys("man woman person men women people boy girl and".split(), "") | {
    "merman": "mermaid",
    "merperson": "mermaid",
    "princess": "prince",
    "older": "old",
    "mrs": "santa",
    "mx": "santa",
}
# How the icon sets spell signs that a slug would lose.
_SPOKEN = {"#": " pound ", "*": " asterisk ", "!": " exclamation ", "&": " and ", "’": "", "'": ""}


class Concept(NamedTuple):
    id: int
    code: str  # code points in hexadecimal, joined by "-", without the variation selector FE0F
    name: str  # English
    keywords: tuple[str, ...]
    flag: bool
    held_out: bool  # its name is never trained on


class Drawing(NamedTuple):
    style: str
    concept: Concept
    body: str  # what stands inside the <svg> element
    view: tuple[float, float, float, float]  # left, top, width, height


def name_group(name: str) -> str:
    """What the variants of one emoji have in common: the name without gender and direction."""
    words = re.findall(r"\w+", name.lower().removesuffix(": facing right"))
    return " ".join(filter(None, (_VARIANTS.get(word, word) for word in words)))


def is_held_out(name: str) -> bool:
    """Whether a name is kept out of training: decided by the SHA-256 of its group, alike everywhere."""
    digest = hashlib.sha256(name_group(name).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


def concepts(entries: Sequence[Mapping[str, Any]]) -> tuple[Concept, ...]:
    """The concepts of emojibase's `data.json`; the id is the rank by code points, flags included."""
    kept = [entry for entry in entries if entry.get("group") not in (_NO_GROUP, _COMPONENTS)]
    kept.sort(key=lambda entry: [int(point, 16) for point in bare_code(entry["hexcode"]).split("-")])
    return tuple(
        Concept(
            id=rank,
            code=bare_code(entry["hexcode"]),
            name=entry["label"],
            keywords=tuple(word for word in entry.get("tags", ()) if word != entry["label"]),
            flag=entry["group"] == _FLAGS,
            held_out=is_held_out(entry["label"]),
        )
        for rank, entry in enumerate(kept)
    )


def bare_code(code: str) -> str:
    """Code points without FE0F, which some sets write and others do not."""
    return "-".join(point for point in code.upper().split("-") if point != "FE0F")


def slug(name: str) -> str:
    """An icon's name as the icon sets make it from a name of Unicode's CLDR."""
    for sign, spoken in _SPOKEN.items():
        name = name.replace(sign, spoken)
    plain = unicodedata.normalize("NFKD", name.lower())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def join(
    style: str, icons: Mapping[str, Any], chars: Mapping[str, str], wanted: Sequence[Concept]
) -> list[Drawing]:
    """The drawings of `wanted` in one icon set: by code points where the set states them, else by name.

    Args:
        icons: the set's `icons.json`. `chars`: its `chars.json`, code points to icon; may be empty.

    An icon that several concepts resolve to, through old names, is given to the one that bears its own
    name, or to none: sets drawn before a concept existed have an alias of that name with another meaning.
    """
    bodies, aliases = icons["icons"], icons.get("aliases", {})
    by_code = {bare_code(code): name for code, name in chars.items()}
    by_squashed = {name.replace("-", ""): name for name in (*aliases, *bodies)}
    claims = collections.defaultdict(list)
    for concept in wanted:
        names = slug(concept.name), slug(concept.name).replace("flag-", "flag-for-", 1)
        found = by_code.get(concept.code) or next(
            (by_squashed[name.replace("-", "")] for name in names if name.replace("-", "") in by_squashed),
            None,
        )
        if found is not None:
            root = found
            while root in aliases:
                root = aliases[root]["parent"]
            claims[root].append((concept, found == root))
    drawings = []
    for root, claimants in claims.items():
        own = [concept for concept, is_own in claimants if is_own or len(claimants) == 1]
        if len(own) == 1:
            drawings.append(Drawing(style, own[0], bodies[root]["body"], _view(icons, bodies[root])))
    return drawings


def _view(icons: Mapping[str, Any], icon: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """The icon's view box; where neither icon nor set states a number, the format's default."""
    default = {"left": 0, "top": 0, "width": 16, "height": 16}
    return tuple(icon.get(side, icons.get(side, number)) for side, number in default.items())


def split_of(drawing: Drawing, held_out_styles: Set[str]) -> str:
    if drawing.concept.flag:
        return "flags"
    new_style, new_concept = drawing.style in held_out_styles, drawing.concept.held_out
    return ("train", "val_concept", "val_style", "val_both")[new_concept + 2 * new_style]


def train_keywords(concept: Concept, held_out_names: Set[str]) -> tuple[str, ...]:
    """Its keywords without those that are a held-out name: such a name is never trained on as a caption."""
    return tuple(word for word in concept.keywords if word.lower() not in held_out_names)
