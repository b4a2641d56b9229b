"""What a preset is: a published pair of towers, and what else belongs to its weights."""

import dataclasses
from typing import Literal

from flax import linen as nn

from mmjax.data.geometry import Preprocess
from mmjax.data.tokenizers import TokenizerConfig
from mmjax.data.tokenizers.clip import ClipBpe
from mmjax.data.tokenizers.sentencepiece import SentencePieceFile
from mmjax.towers import Dtype
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
        self,
        *,
        tokenizer: TokenizerConfig | None = None,
        dtype: Dtype = "float32",
        remat: Remat = "none",
        scan: bool = True,
    ) -> dict[str, nn.Module]:
        """What `Pretrain` calls `towers`.

        Args:
            tokenizer: your own (`SentencePiece`, say), whose vocabulary, length and marks the text tower then
                has; None: those of the published weights.
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

    def tokenizer(self, path: str | None = None) -> TokenizerConfig:
        """What made the token ids that the published weights have seen.

        Args:
            path: of its vocabulary, which comes with the weights; CLIP's also with the package open_clip.

        Raises:
            ValueError: there is no path where one is needed, or mmjax does not read such a vocabulary.
        """
        made, length = self.vocabulary, self.text.length
        if made.name == "clip_bpe":
            return ClipBpe(path=path, length=length)
        if made.name == "bert_uncased":
            raise ValueError(
                f"{self.name} reads BERT's word pieces, which mmjax does not; train on pieces of your own"
            )
        if path is None:
            raise ValueError(
                f"{self.name} reads the SentencePiece model {made.name}; give the path of its file"
            )
        return SentencePieceFile(
            path=path,
            vocab=self.text.vocab,
            length=length,
            pad_id=made.pad_id,
            eos_id=made.eos_id,
            bos_id=made.bos_id,
            lower=made.lower,
            punctuation=made.punctuation,
        )
