"""Galleries and heat maps of the HTML report, and the thumbnails in them."""

import base64
import hashlib
import io
from html import escape

import numpy as np
from PIL import Image

from mmjax.evals import Gallery, Heatmap, Item, Match, Row

_CAPTION = 200  # characters of a caption that are shown


class Thumbnails:
    """Pictures of a page, each embedded once however often it is shown: as the background of a CSS class."""

    def __init__(self, *, side: int, quality: int):
        self._side, self._quality = side, quality
        self._rules: dict[bytes, str] = {}

    def html(self, picture: np.ndarray, alt: str) -> str:
        """The picture, uint8 [H, W, 3 or 4], as an element; transparency is shown on white."""
        digest = hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()
        if digest not in self._rules:
            url = f"data:image/jpeg;base64,{self._jpeg(picture)}"
            self._rules[digest] = f".p{len(self._rules)}{{background-image:url({url})}}"
        rule = self._rules[digest]
        return f'<span class="pic {rule[1 : rule.index("{")]}" role="img" aria-label="{escape(alt)}"></span>'

    def css(self) -> str:
        return "\n".join(self._rules.values())

    def _jpeg(self, picture: np.ndarray) -> str:
        image = Image.fromarray(picture).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        image.thumbnail((self._side, self._side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        # Without chroma subsampling: flat saturated colours bleed at this size.
        image.save(file, "JPEG", quality=self._quality, subsampling=0, optimize=True)
        return base64.b64encode(file.getvalue()).decode()


def gallery(shown: Gallery, thumbnails: Thumbnails, *, max_rows: int | None) -> str:
    """The gallery as HTML; None shows every row."""
    rows = shown.rows[:max_rows]
    cards = "".join(_row(row, thumbnails) for row in rows) or '<p class="note">None.</p>'
    if len(rows) < len(shown.rows):
        cards += f'<p class="note">{len(shown.rows) - len(rows)} more left out to keep this page small.</p>'
    return f'{heading(shown.title, shown.note)}<div class="cards">{cards}</div>'


def heatmap(shown: Heatmap, thumbnails: Thumbnails, *, max_rows: int | None) -> str:
    """The similarities as a table, at most `max_rows` square; darker is higher."""
    images, texts = shown.images[:max_rows], shown.texts[:max_rows]
    if not images or not texts:
        return f'{heading(shown.title, shown.note)}<p class="note">Left out to keep this page small.</p>'
    values = np.asarray(shown.values, float)[: len(images), : len(texts)]
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    # Squared, so that the few high ones stand out.
    strength = np.clip(np.nan_to_num((values - low) / max(high - low, 1e-12)), 0, 1) ** 2
    paired = len(shown.images) == len(shown.texts)
    head = "".join(f'<th scope="col"><span>{_caption(text)}</span></th>' for text in texts)
    body = ""
    for i, image in enumerate(images):
        cells = "".join(
            _cell(values[i, j], strength[i, j], right=paired and i == j, label=f"picture {i + 1}, {text}")
            for j, text in enumerate(texts)
        )
        body += f'<tr><th scope="row">{thumbnails.html(image, f"picture {i + 1}")}</th>{cells}</tr>'
    return (
        f'{heading(shown.title, shown.note)}<div class="scroll" tabindex="0"><table class="heat">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def heading(title: str, note: str) -> str:
    return f'<h3>{escape(title)}</h3><p class="note">{escape(note)}</p>'


def _cell(value: float, strength: float, *, right: bool, label: str) -> str:
    style = ("own " if right else "") + ("deep" if strength > 0.75 else "")
    return (
        f'<td class="{style.strip()}" style="--v:{strength:.2f}" title="{_caption(label)}">'
        f"{100 * value:z.0f}</td>"
    )


def _row(row: Row, thumbnails: Thumbnails) -> str:
    visual = bool(row.matches) and not isinstance(row.matches[0].item, str)
    found = "".join(_match(match, place, thumbnails) for place, match in enumerate(row.matches, start=1))
    answer = f'<ol class="{"tiles" if visual else "lines"}">{found}</ol>'
    if row.truth is not None and not any(match.right for match in row.matches):
        right = _item(row.truth, "the right answer", thumbnails)
        answer += f'<div class="truth"><span>should be</span>{right}</div>'
    asked = row.query if isinstance(row.query, tuple) else (row.query,)
    query = "".join(_item(item, "the query", thumbnails) for item in asked)
    return (
        f'<article class="row"><div class="query">{query}</div><div class="answer">{answer}</div></article>'
    )


def _match(match: Match, place: int, thumbnails: Thumbnails) -> str:
    right = "right" if match.right else "wrong"
    mark = '<span class="mark"><span aria-hidden="true">✓</span> right</span>' if match.right else ""
    item = _item(match.item, f"number {place}, {right}", thumbnails)
    return f'<li class="{right}">{item}{mark}<span class="score">{match.score:.2f}</span></li>'


def _item(item: Item, alt: str, thumbnails: Thumbnails) -> str:
    if isinstance(item, str):
        return f'<span class="caption">{_caption(item)}</span>'
    return thumbnails.html(item, alt)


def _caption(text: str) -> str:
    return escape(text if len(text) <= _CAPTION else text[: _CAPTION - 1] + "…")
