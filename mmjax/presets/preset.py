"""What a preset is: a published pair of towers, and what else belongs to its weights."""

import dataclasses
from typing import Any, Literal

from flax import linen as nn

from mmjax.data.geometry import Preprocess
from mmjax.towers.layers import Remat
from mmjax.towers.resnet import ResNet
from mmjax.towers.text import TextTransformer
from mmjax.towers.vit import ViT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What makes the token ids of a model, as data: the vocabulary itself comes with its weights."""

    name: Literal["clip_bpe", "c4_en", "gemma", "bert_uncased"]
    pad_id: int  # fills a row
    eos_id: int | None  # ends a text; None: nothing does
    bos_id: int | None = None  # starts a text; None: nothing does
    lower: bool = True
    punctuation: bool = True  # False: removed, as SigLIP's canonical form has it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """One published pair of towers."""

    name: str  # in open_clip's spelling
    also: tuple[str, ...]  # further names
    image: ViT | ResNet
    text: TextTransformer
    preprocess: Preprocess
    vocabulary: Vocabulary

    def towers(
        self, *, tokenizer: Any = None, dtype: str = "float32", remat: Remat = "none", scan: bool = True
    ) -> dict[str, nn.Module]:
        """What `Pretrain` calls `towers`.

        Args:
            tokenizer: the config of your own (`SentencePiece`, say), whose vocabulary, length and marks the
                text tower then has; None: those of the published weights.
            dtype, remat, scan: of both towers. A ResNet has no layers to scan, and keeps its activations.
        """
        fields = dict(dtype=dtype, remat=remat, scan=scan)
        text = self.text.clone(encoder=self.text.encoder.clone(**fields))
        if tokenizer is not None:
            pad = None if text.pad is None else tokenizer.pad_id
            text = text.clone(vocab=tokenizer.vocab, length=tokenizer.length, eos=tokenizer.eos_id, pad=pad)
        if isinstance(self.image, ResNet):
            return {"image": self.image.clone(dtype=dtype), "text": text}
        return {"image": self.image.clone(encoder=self.image.encoder.clone(**fields)), "text": text}
