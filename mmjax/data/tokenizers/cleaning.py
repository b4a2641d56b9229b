"""What is done to a text before it is cut into pieces."""

import html
import string

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean(text: str, *, lower: bool, punctuation: bool) -> str:
    """The text in lower case, if `lower`, and by `bare` without its punctuation, unless `punctuation`.

    Both at once are SigLIP's canonical form (Zhai et al. 2023, arXiv:2303.15343; big_vision's and open_clip's
    `canonicalize`).
    """
    text = text if punctuation else bare(text)
    return text.lower() if lower else text


def bare(text: str) -> str:
    """The text without ASCII punctuation, words separated by one space; an underscore separates words."""
    return " ".join(text.replace("_", " ").translate(_PUNCTUATION).split())


def repaired(text: str, *, ftfy: bool) -> str:
    """The text as CLIP's tokenizer reads it: HTML's escapes undone twice, words separated by one space.

    `ftfy` first mends letters that a wrong encoding mangled, and makes quotes straight.

    Raises:
        ValueError: ftfy is wanted and not installed.
    """
    text = _ftfy().fix_text(text) if ftfy else text
    return " ".join(html.unescape(html.unescape(text)).split())


def _ftfy():
    try:
        import ftfy
    except ImportError:
        raise ValueError(
            "CLIP's tokenizer mends texts with ftfy, which is not installed; pip install ftfy, or set "
            "tokenizer.ftfy=False where no published weights are used"
        ) from None
    return ftfy
