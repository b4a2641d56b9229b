"""What the SVG files of Debian's package openclipart-svg say of themselves, and which of them are kept.

Every file states its title, description, keywords, creator and licence in RDF (the vocabularies of Dublin
Core and of Creative Commons). Many hands wrote them: three titles of ten are a whole collection's.
"""

import collections
import html
import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

log = logging.getLogger("mmjax")

FREE = "PublicDomain"  # ends the address of the licence
STARS = "gramastar"  # title of 1,375 stars that a program drew
ICONS = "computer/icons/"  # of desktop themes: the same few things over and over
COLLECTION = 3  # files of so many different names: what they share is no text of any of them

_NO_TEXT = re.compile(r"@|://|www\.|HASH\(|^created with", re.IGNORECASE)
_LEAST_CREATOR = 3  # letters of a creator's name that can be told from others


class Stated(NamedTuple):
    """One file's own words."""

    path: str  # within the package's folder of drawings
    title: str
    description: str
    keywords: tuple[str, ...]
    creator: str
    free: bool


class Clip(NamedTuple):
    """A drawing that is kept, with its texts."""

    path: str
    texts: tuple[str, ...]  # the caption first
    kinds: tuple[str, ...]  # of each text: title, name, description or keyword
    name: str  # of the file, in words; without its creator and numbers

    @property
    def folder(self) -> str:
        """The one at the top: what the drawing is filed under."""
        return self.path.split("/")[0]


def clips(folder: Path) -> list[Clip]:
    """The drawings below a folder that are kept, in order of their paths; what is left out is counted in the
    log."""
    found, left_out = [], collections.Counter()
    for path in sorted(folder.rglob("*.svg")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink():
            left_out["links to others"] += 1
        elif (said := stated(path.read_bytes(), relative)) is None:
            left_out["not valid"] += 1
        elif not said.free:
            left_out["not marked as public domain"] += 1
        elif said.title == STARS:
            left_out["computed stars"] += 1
        elif relative.startswith(ICONS):
            left_out["icons of desktop themes"] += 1
        else:
            found.append(said)
    for why, count in left_out.items():
        log.info("openclipart: left out %d files: %s", count, why)
    return captioned(found)


def stated(svg: bytes, path: str) -> Stated | None:
    """None where the file is no XML."""
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError:
        return None
    work = next(_named(root, "Work"), ElementTree.Element("nothing"))
    creator = next(_named(work, "creator"), ElementTree.Element("nobody"))
    licences = (
        value for tag in ("license", "License") for one in _named(root, tag) for value in one.attrib.values()
    )
    children = {_tag(child): _text(child) for child in reversed(work)}
    return Stated(
        path=path,
        title=children.get("title", ""),
        description=children.get("description", ""),
        keywords=tuple(filter(None, (_text(item) for item in _named(work, "li")))),
        creator=next((_text(title) for title in _named(creator, "title")), ""),
        free=any(value.endswith(FREE) for value in licences),
    )


def captioned(said: Sequence[Stated]) -> list[Clip]:
    """The drawings with their texts.

    A title, or description, that files of several names share, or that names its creator, is a collection's:
    the file's name is the caption in its place. The folders are in no text but as keywords: many of these
    were what a drawing was filed by.
    """
    names = [name_of(one) for one in said]
    shared = {
        field: _collections((getattr(one, field), name) for one, name in zip(said, names, strict=True))
        for field in ("title", "description")
    }
    found = []
    for one, name in zip(said, names, strict=True):
        texts = {}  # kind by text: the first of equal ones stays
        for field in ("title", "description"):
            text = getattr(one, field)
            own = text and text not in shared[field] and not _NO_TEXT.search(text)
            if own and not (one.creator and one.creator.lower() in text.lower()):
                texts.setdefault(text, field)
        if "title" not in texts.values():
            texts = {name: "name"} | texts
        for keyword in one.keywords:
            if keyword not in ("hash", "unsorted") and keyword.lower() != one.creator.lower():
                texts.setdefault(keyword, "keyword")
        texts.pop("", None)
        found.append(Clip(one.path, tuple(texts), tuple(texts.values()), name.lower()))
    return found


def name_of(one: Stated) -> str:
    """The file's name in words, without its creator's, which may be cut short, and numbers at the end.

    `flags/new_york_jon_phil_01.svg` by Jon Phillips is "new york".
    """
    stem = one.path.rsplit("/", 1)[-1].removesuffix(".svg")
    stem = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d{2})", " ", stem)
    words = _without_counters(re.findall(r"[^\W_]+", stem) or [stem])
    accents = unicodedata.normalize("NFKD", one.creator)
    # Accents were dropped from files' names, or letters that bear them.
    creators = {"".join(re.findall(r"[a-z0-9]+", text.lower())) for text in (one.creator, accents)}
    for start in range(1, len(words)):
        rest = "".join(words[start:]).lower()
        if len(rest) >= _LEAST_CREATOR and any(creator.startswith(rest) for creator in creators):
            return " ".join(_without_counters(words[:start]))
    return " ".join(words)


def _without_counters(words: list[str]) -> list[str]:
    """Without numbers and single letters after them at the end, unless nothing else is there."""
    kept = words
    while len(kept) > 1 and re.fullmatch(r"\d+[a-z]?|r", kept[-1]):
        kept = kept[:-1]
    return kept


def _collections(pairs: Iterable[tuple[str, str]]) -> set[str]:
    """Texts that go with several names."""
    names = collections.defaultdict(set)
    for text, name in pairs:
        names[text].add(name.lower())
    return {text for text, those in names.items() if len(those) >= COLLECTION}


def _named(element, tag: str):
    return (child for child in element.iter() if _tag(child) == tag)


def _tag(element) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


def _text(element) -> str:
    """Its text on one line, with entities that were escaped twice as what they mean."""
    return " ".join(html.unescape(element.text or "").replace("_", " ").split())
