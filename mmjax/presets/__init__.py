"""Published models by name: their towers, and what else belongs to their weights.

The architectures only, as their authors trained them; `docs/towers.md` lists them with sources. Names are
open_clip's (`ViT-B-32`, `PE-Core-L-14-336`); big_vision's (`B/16`, `So400m/14`) find them as well, alone or
after the family (`SigLIP2 B/16`), and OpenAI's (`ViT-B/32`) find what OpenAI trained. To add one, write its
line below; a family is a function of `families.py`.
"""

import difflib

from mmjax.presets.families import GEMMA, clip, clipa, pe_core, siglip
from mmjax.presets.preset import Preset, Vocabulary

__all__ = ["Preset", "Vocabulary", "names", "preset"]


_SIGLIP2 = dict(vocab=256_000, vocabulary=GEMMA)
_ALL = (
    *clip(
        "ViT-B-32",
        "B/32",
        openai="ViT-B/32",
        bare=True,
        image="B",
        patch=32,
        px=224,
        text="text-B",
        embed=512,
    ),
    *clip("ViT-B-16", "B/16", openai="ViT-B/16", image="B", patch=16, px=224, text="text-B", embed=512),
    *clip(
        "ViT-L-14",
        "L/14",
        openai="ViT-L/14",
        bare=True,
        image="L",
        patch=14,
        px=224,
        text="text-L",
        embed=768,
    ),
    *clip(
        "ViT-L-14-336",
        "L/14-336",
        openai="ViT-L/14@336px",
        bare=True,
        image="L",
        patch=14,
        px=336,
        text="text-L",
        embed=768,
    ),
    *clip("RN50", "RN50", openai="RN50", image=None, px=224, text="text-B", embed=1024),
    *clip("ViT-H-14", "H/14", bare=True, image="H", patch=14, px=224, text="text-H", embed=1024),
    *clip("ViT-bigG-14", "G/14", bare=True, image="G", patch=14, px=224, text="text-G", embed=1280),
    siglip("ViT-mu-16-SigLIP", ("mu/16", "SigLIP mu/16"), size="mu", patch=16, px=224),
    siglip("ViT-Ti-16-SigLIP", ("Ti/16", "SigLIP Ti/16"), size="Ti", patch=16, px=224),
    siglip("ViT-S-16-SigLIP", ("S/16", "SigLIP S/16"), size="S", patch=16, px=224),
    siglip("ViT-B-16-SigLIP", ("B/16", "SigLIP B/16"), size="B", patch=16, px=224),
    siglip(
        "ViT-SO400M-14-SigLIP",
        ("So400m/14", "SigLIP So400m/14"),
        size="So400m",
        patch=14,
        px=224,
        length=16,
    ),
    siglip("ViT-B-16-SigLIP2", ("SigLIP2 B/16",), size="B", patch=16, px=224, **_SIGLIP2),
    siglip("ViT-L-16-SigLIP2-256", ("L/16", "SigLIP2 L/16"), size="L", patch=16, px=256, **_SIGLIP2),
    siglip(
        "ViT-SO400M-16-SigLIP2-256",
        ("So400m/16", "SigLIP2 So400m/16"),
        size="So400m",
        patch=16,
        px=256,
        **_SIGLIP2,
    ),
    siglip(
        "ViT-gopt-16-SigLIP2-256",
        ("g-opt/16", "SigLIP2 g-opt/16"),
        size="g-opt",
        text="So400m",
        patch=16,
        px=256,
        **_SIGLIP2,
    ),
    clipa("ViT-H-14-CLIPA", ("CLIPA H/14",), image="H", patch=14, px=224, text="text-H", embed=1024),
    pe_core(
        "PE-Core-B-16",
        ("PE-Core B/16", "PE-Core-B16-224"),
        image="B",
        patch=16,
        px=224,
        text="text-H",
        embed=1024,
    ),
    pe_core(
        "PE-Core-L-14-336",
        ("PE-Core L/14", "PE-Core-L14-336"),
        image="L",
        patch=14,
        px=336,
        text="text-H",
        embed=1024,
    ),
    pe_core(
        "PE-Core-bigG-14-448",
        ("PE-Core G/14", "PE-Core-G14-448"),
        image="PE-G",
        patch=14,
        px=448,
        text="text-PE-G",
        embed=1280,
        length=72,
        class_token=False,
    ),
)
_BY_NAME = {name: found for found in _ALL for name in (found.name, *found.also)}


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        ValueError: there is none; says which names are nearest.
    """
    if name not in _BY_NAME:
        folded = {known.lower(): known for known in _BY_NAME}
        begin = [key for key in folded if name and key.startswith(name.lower())]
        near = (begin or difflib.get_close_matches(name.lower(), folded, cutoff=0.4))[:3]
        guess = f"did you mean {', '.join(folded[key] for key in near)}? " if near else ""
        raise ValueError(f"there is no preset {name!r}; {guess}docs/towers.md lists all, and presets.names()")
    return _BY_NAME[name]


def names() -> tuple[str, ...]:
    """All presets, in open_clip's spelling."""
    return tuple(dict.fromkeys(found.name for found in _BY_NAME.values()))
