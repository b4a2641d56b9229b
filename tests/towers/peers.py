"""PyTorch for the oracle tests: modules of open_clip and timm, and their weights as parameters of ours."""

import functools
import types

import numpy as np


@functools.cache
def libraries():
    """torch, open_clip and timm, or None where torch is absent."""
    try:
        import torch  # noqa: TID251
    except ModuleNotFoundError:
        return None
    # torchvision's own operators are of its CUDA build, which a CPU's torch cannot load; none is used here.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import open_clip
    import timm
    from open_clip import model as models

    return types.SimpleNamespace(torch=torch, open_clip=open_clip, models=models, timm=timm, keep=library)


def randomised(module, seed=0):
    """The module in evaluation, with noise on all weights and running statistics, so that none is neutral."""
    torch = libraries().torch
    generator = torch.Generator().manual_seed(seed)

    def noise(x, size):
        return size * torch.randn(x.shape, generator=generator)

    with torch.no_grad():
        for x in module.parameters():
            x.add_(noise(x, 0.02))
        for name, x in module.named_buffers():
            if name.endswith("running_mean"):
                x.add_(noise(x, 0.1))
            elif name.endswith("running_var"):
                x.mul_(1 + noise(x, 0.1).abs())
    return module.eval()


def run(module, *inputs):
    torch = libraries().torch
    with torch.no_grad():
        return module(*(torch.from_numpy(np.array(x)) for x in inputs)).numpy()


class Weights:
    """A state dict by prefix, as NumPy arrays."""

    def __init__(self, module):
        # Copies: training changes running statistics in place.
        self.arrays = {name: np.array(x.detach()) for name, x in module.state_dict().items()}

    def __getitem__(self, name):
        return self.arrays[name]

    def norm(self, name):
        return {"scale": self[f"{name}.weight"], "bias": self[f"{name}.bias"]}

    def batch_norm(self, name):
        return self.norm(name) | {"mean": self[f"{name}.running_mean"], "var": self[f"{name}.running_var"]}

    def dense(self, name):
        return {"kernel": self[f"{name}.weight"].T, "bias": self[f"{name}.bias"]}

    def conv(self, name):
        return {"kernel": self[f"{name}.weight"].transpose(2, 3, 1, 0)}

    def patches(self, name):
        """A strided convolution as the product with flattened patches."""
        kernel = self[f"{name}.weight"].transpose(2, 3, 1, 0)
        return {"kernel": kernel.reshape(-1, kernel.shape[-1])}

    def attention(self, kernels, biases, out, heads):
        """`kernels`, `biases`: of query, key and value, each [D, D] and [D] as torch has them."""
        parts = {}
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            parts[name] = {
                "kernel": kernel.T.reshape(kernel.shape[1], heads, -1),
                "bias": bias.reshape(heads, -1),
            }
        kernel = self[f"{out}.weight"].T
        parts["out"] = {
            "kernel": kernel.reshape(heads, -1, kernel.shape[-1]),
            "bias": self[f"{out}.bias"],
        }
        return parts

    def block(self, prefix, heads, names):
        """`names`: of both norms, fused attention kernel and bias, its output, and both layers of the MLP."""
        norm_1, norm_2, kernel, bias, out, up, down = (f"{prefix}.{name}" for name in names)
        return {
            "norm_attention": self.norm(norm_1),
            "attention": self.attention(np.split(self[kernel], 3), np.split(self[bias], 3), out, heads),
            "norm_mlp": self.norm(norm_2),
            "mlp": {"up": self.dense(up), "down": self.dense(down)},
        }

    def encoder(self, prefix, encoder, names):
        layers = [self.block(f"{prefix}.{i}", encoder.heads, names) for i in range(encoder.depth)]
        return {"blocks": stacked(layers)}


def stacked(layers):
    """One tree whose leaves have a leading axis of layers."""
    if isinstance(layers[0], dict):
        return {name: stacked([layer[name] for layer in layers]) for name in layers[0]}
    return np.stack(layers)


OPEN_CLIP = (
    "ln_1",
    "ln_2",
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    "attn.out_proj",
    "mlp.c_fc",
    "mlp.c_proj",
)
TIMM = ("norm1", "norm2", "attn.qkv.weight", "attn.qkv.bias", "attn.proj", "mlp.fc1", "mlp.fc2")


def clip_image(module, tower):
    w = Weights(module)
    return {
        "patch": w.patches("conv1"),
        "class": w["class_embedding"],
        "positions": w["positional_embedding"],
        "norm_before": w.norm("ln_pre"),
        "encoder": w.encoder("transformer.resblocks", tower.encoder, OPEN_CLIP),
        "norm": w.norm("ln_post"),
        "head": {"kernel": w["proj"]},
    }


def clip_text(module, tower):
    w = Weights(module)
    bias = "text_projection.bias" in w.arrays
    return {
        "pieces": {"embedding": w["token_embedding.weight"]},
        "positions": w["positional_embedding"],
        "encoder": w.encoder("transformer.resblocks", tower.encoder, OPEN_CLIP),
        "norm": w.norm("ln_final"),
        "head": w.dense("text_projection") if bias else {"kernel": w["text_projection"]},
    }


def timm_vit(module, tower, pool_heads):
    w = Weights(module)
    kernels, biases = np.split(w["attn_pool.kv.weight"], 2), np.split(w["attn_pool.kv.bias"], 2)
    params = {
        "patch": w.patches("patch_embed.proj"),
        "positions": w["pos_embed"][0],
        "encoder": w.encoder("blocks", tower.encoder, TIMM),
        "norm": w.norm("norm"),
        "pool": {
            "probe": w["attn_pool.latent"][0],
            "attention": w.attention(
                (w["attn_pool.q.weight"], *kernels),
                (w["attn_pool.q.bias"], *biases),
                "attn_pool.proj",
                pool_heads,
            ),
            "norm": w.norm("attn_pool.norm"),
            "mlp": {"up": w.dense("attn_pool.mlp.fc1"), "down": w.dense("attn_pool.mlp.fc2")},
        },
    }
    if tower.patch_bias:
        params["patch"]["bias"] = w["patch_embed.proj.bias"]
    if tower.has_class_token:
        params["class"] = w["cls_token"][0, 0]
    if tower.norm_before:
        params["norm_before"] = w.norm("norm_pre")
    if tower.projection != "none":
        params["head"] = w.dense("head")
    return params


def clip_resnet(module, tower):
    w = Weights(module)
    params = {}
    for i in range(3):
        params |= {f"stem_{i}": w.conv(f"conv{i + 1}"), f"norm_{i}": w.batch_norm(f"bn{i + 1}")}
    for stage, depth in enumerate(tower.depths):
        for i in range(depth):
            prefix, block = f"layer{stage + 1}.{i}", {}
            for j in range(3):
                block |= {
                    f"conv_{j}": w.conv(f"{prefix}.conv{j + 1}"),
                    f"norm_{j}": w.batch_norm(f"{prefix}.bn{j + 1}"),
                }
            if f"{prefix}.downsample.0.weight" in w.arrays:
                block["shortcut"] = w.conv(f"{prefix}.downsample.0")
                block["norm_shortcut"] = w.batch_norm(f"{prefix}.downsample.1")
            params[f"stage_{stage}_{i}"] = block
    pool = "attnpool"
    kernels, biases = ([w[f"{pool}.{name}_proj.{kind}"] for name in "qkv"] for kind in ("weight", "bias"))
    heads = tower.width * 32 // 64
    return params | {
        "positions": w[f"{pool}.positional_embedding"],
        "attention": w.attention(kernels, biases, f"{pool}.c_proj", heads),
    }
