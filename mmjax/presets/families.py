"""The families of presets: what their members have in common, and the sizes they come in."""

from mmjax.data.geometry import Preprocess
from mmjax.presets.preset import Preset, Vocabulary
from mmjax.towers.layers import Activation, Encoder
from mmjax.towers.pooling import AttentionPool
from mmjax.towers.resnet import ResNet
from mmjax.towers.text import TextTransformer
from mmjax.towers.vit import ViT

# Width, depth, heads, MLP width: Zhai et al. 2022, arXiv:2106.04560, table 2; So400m: Alabdulmohsin et al.
# 2023, arXiv:2305.13035; g-opt: Tschannen et al. 2025, arXiv:2502.14786; mu: big_vision's, for tests.
_SIZES = {
    "mu": (32, 1, 2, 128),
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "So400m": (1152, 27, 16, 4304),
    "H": (1280, 32, 16, 5120),
    "g-opt": (1536, 40, 16, 6144),
    "G": (1664, 48, 16, 8192),
    "PE-G": (1536, 50, 16, 8960),
    # The text towers of CLIP, which are narrower than the image towers beside them.
    "text-B": (512, 12, 8, 2048),
    "text-L": (768, 12, 12, 3072),
    "text-H": (1024, 24, 16, 4096),
    "text-G": (1280, 32, 20, 5120),
    "text-PE-G": (1280, 24, 20, 5120),
}
_CLIP_BPE = Vocabulary(name="clip_bpe", pad_id=0, bos_id=49_406, eos_id=49_407)
_C4_EN = Vocabulary(name="c4_en", pad_id=1, eos_id=1, punctuation=False)
GEMMA = Vocabulary(name="gemma", pad_id=0, eos_id=1)
_BERT = Vocabulary(name="bert_uncased", pad_id=0, eos_id=None, bos_id=101)
_CLIP_COLOURS = dict(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)  # of OpenAI's pictures
_IMAGENET_COLOURS = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _encoder(size: str, activation: Activation, norm_eps: float, causal: bool = False) -> Encoder:
    _, depth, heads, mlp = _SIZES[size]
    return Encoder(depth=depth, heads=heads, mlp=mlp, activation=activation, norm_eps=norm_eps, causal=causal)


def _width(size: str) -> int:
    return _SIZES[size][0]


def _clip_text(size: str, embed: int, activation: Activation, length: int = 77) -> TextTransformer:
    """Causal, read out at the end mark; padding comes after it, so needs no mask."""
    return TextTransformer(
        vocab=49_408,
        length=length,
        width=_width(size),
        embed=embed,
        encoder=_encoder(size, activation, 1e-5, causal=True),
        eos=_CLIP_BPE.eos_id,
        pad=None,
    )


def clip(name, size, *, openai=None, bare=False, **fields):
    """Radford et al. 2021, arXiv:2103.00020, twice: with the exact GELU as open_clip trains it, and with the
    quick one as OpenAI did.

    Args:
        openai: OpenAI's own name; it finds the latter, unless it is open_clip's name of the former as well.
        bare: whether big_vision's name alone, without a family, is the former.
    """
    also = (f"open_clip {size}", size) if bare else (f"open_clip {size}",)
    theirs = () if openai is None else (f"OpenAI {size}", *({openai} - {name}))
    return (
        _one_clip(name, also, "gelu", **fields),
        _one_clip(f"{name}-quickgelu", (f"CLIP {size}", *theirs), "quick_gelu", **fields),
    )


def _one_clip(name, also, activation, *, image, px, text, embed, patch=None):
    """`image` None is the ResNet-50."""
    if image is None:
        tower = ResNet(embed=embed)
    else:
        tower = ViT(
            width=_width(image),
            patch=patch,
            embed=embed,
            encoder=_encoder(image, activation, 1e-5),
            pool="class",
            patch_bias=False,
            norm_before=True,
        )
    return Preset(
        name=name,
        also=also,
        image=tower,
        text=_clip_text(text, embed, activation),
        preprocess=Preprocess(size=px, **_CLIP_COLOURS),
        vocabulary=_CLIP_BPE,
    )


def siglip(name, also, *, size, patch, px, text=None, length=64, vocab=32_000, vocabulary=_C4_EN):
    """Zhai et al. 2023, arXiv:2303.15343, and Tschannen et al. 2025, arXiv:2502.14786, as in big_vision."""
    text = text or size
    return Preset(
        name=name,
        also=also,
        image=ViT(
            width=_width(size),
            patch=patch,
            embed=_width(size),
            encoder=_encoder(size, "gelu_tanh", 1e-6),
            pool="map",
            projection="none",
        ),
        text=TextTransformer(
            vocab=vocab,
            length=length,
            width=_width(text),
            embed=_width(size),
            encoder=_encoder(text, "gelu_tanh", 1e-6),
            pool="last",
            projection="affine",
            eos=vocabulary.eos_id,
            pad=None,
        ),
        preprocess=Preprocess(size=px, mode="squash"),
        vocabulary=vocabulary,
    )


def clipa(name, also, *, image, patch, px, text, embed):
    """Li et al. 2023, arXiv:2305.07017, as their code has it; open_clip runs it with the exact GELU."""
    return Preset(
        name=name,
        also=also,
        image=ViT(
            width=_width(image),
            patch=patch,
            embed=embed,
            encoder=_encoder(image, "gelu_tanh", 1e-6),
            positions="sincos2d",
            class_token=True,
            patch_bias=False,
            norm_pooled=True,
        ),
        text=TextTransformer(
            vocab=32_000,
            length=32,
            width=_width(text),
            embed=embed,
            encoder=_encoder(text, "gelu_tanh", 1e-6),
            pool="last",
            pad=None,
        ),
        preprocess=Preprocess(size=px, mode="squash", filter="bilinear", **_IMAGENET_COLOURS),
        vocabulary=_BERT,
    )


def pe_core(name, also, *, image, patch, px, text, embed, length=32, class_token=True):
    """Bolya et al. 2025, arXiv:2504.13181, as in perception_models."""
    return Preset(
        name=name,
        also=also,
        image=ViT(
            width=_width(image),
            patch=patch,
            embed=embed,
            encoder=_encoder(image, "gelu", 1e-5),
            pool=AttentionPool(heads=8, activation="gelu", norm_eps=1e-5),
            positions="learned+rope",
            class_token=class_token,
            patch_bias=False,
            norm_before=True,
        ),
        text=_clip_text(text, embed, "gelu", length),
        preprocess=Preprocess(size=px, mode="squash", filter="bilinear"),
        vocabulary=_CLIP_BPE,
    )
