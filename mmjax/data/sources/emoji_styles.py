"""The pinned packages of the emoji data set: one icon set a style, and the names.

Checksums were taken from two separate fetches. A further style of the Iconify format is one more `Style`.
"""

import dataclasses
import hashlib

from mmjax.data.sources.emoji_fetch import Package


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """One icon set of the Iconify format."""

    name: str
    family: str  # styles of one family share drawings; a family is trained on or held out as a whole
    package: Package


NOTO = Style(
    name="noto",
    family="noto",
    package=Package(
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        licence="Apache-2.0",
        author="Google",
        homepage="https://github.com/googlefonts/noto-emoji",
    ),
)
NOTO_V1 = Style(
    name="noto-v1",
    family="noto",
    package=Package(
        name="@iconify-json/noto-v1",
        version="1.2.5",
        sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        licence="Apache-2.0",
        author="Google",
        homepage="https://github.com/googlefonts/noto-emoji",
    ),
)
TWEMOJI = Style(
    name="twemoji",
    family="twemoji",
    package=Package(
        name="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        licence="CC-BY-4.0",
        author="Twitter",
        homepage="https://github.com/jdecked/twemoji",
    ),
)
EMOJIONE = Style(
    name="emojione",
    family="emojione",
    package=Package(
        name="@iconify-json/emojione",
        version="1.2.3",
        sha256="26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        licence="CC-BY-4.0",
        author="Emoji One",
        homepage="https://github.com/EmojiTwo/emojitwo",
    ),
)
EMOJIONE_V1 = Style(
    name="emojione-v1",
    family="emojione",
    package=Package(
        name="@iconify-json/emojione-v1",
        version="1.2.3",
        sha256="6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
        licence="CC-BY-SA-4.0",
        author="Emoji One",
        homepage="https://github.com/joypixels/emojione-legacy",
    ),
)
EMOJIONE_MONOTONE = Style(
    name="emojione-monotone",
    family="emojione",
    package=Package(
        name="@iconify-json/emojione-monotone",
        version="1.2.1",
        sha256="40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
        licence="CC-BY-4.0",
        author="Emoji One",
        homepage="https://github.com/EmojiTwo/emojitwo",
    ),
)
FXEMOJI = Style(
    name="fxemoji",
    family="fxemoji",
    package=Package(
        name="@iconify-json/fxemoji",
        version="1.2.2",
        sha256="f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        licence="Apache-2.0",
        author="Mozilla",
        homepage="https://github.com/mozilla/fxemoji",
    ),
)
OPENMOJI = Style(
    name="openmoji",
    family="openmoji",
    package=Package(
        name="@iconify-json/openmoji",
        version="1.2.29",
        sha256="03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        licence="CC-BY-SA-4.0",
        author="OpenMoji",
        homepage="https://github.com/hfg-gmuend/openmoji",
    ),
)
EMOJIBASE = Package(
    name="emojibase-data",
    version="17.0.0",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    licence="MIT",
    author="Miles Johnson; names and keywords from Unicode CLDR, Unicode-3.0",
    homepage="https://github.com/milesj/emojibase",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collection:
    """Everything that decides which drawings and names are in the data set."""

    train: tuple[Style, ...] = (NOTO, NOTO_V1, TWEMOJI, EMOJIONE, EMOJIONE_V1, EMOJIONE_MONOTONE, FXEMOJI)
    held_out: tuple[Style, ...] = (OPENMOJI,)
    names: Package = EMOJIBASE

    def __post_init__(self):
        if twice := [name for name in self._style_names if self._style_names.count(name) > 1]:
            raise ValueError(f"style {twice[0]} is given twice; name every style once")
        for style in self.held_out:
            related = [other.name for other in self.train if other.family == style.family]
            if related:
                raise ValueError(
                    f"style {style.name} is held out, but {related[0]} of the same family {style.family} is "
                    "trained on and shares drawings with it; hold out or train on the whole family"
                )

    @property
    def _style_names(self) -> list[str]:
        return [style.name for style in self.styles]

    @property
    def styles(self) -> tuple[Style, ...]:
        return self.train + self.held_out

    @property
    def packages(self) -> tuple[Package, ...]:
        return (*(style.package for style in self.styles), self.names)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits, different for different collections."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]
