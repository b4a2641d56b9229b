"""What every implementation of attention is held to: cases, inputs, and a reference in float64 NumPy.

A new implementation is one more name in `MEMBERS`.

Letters: B batch, S positions, N heads, K head width, X = N x K.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import preparing
from jax import lax

from mmjax.kernels.attention import attention

# Those that run on a CPU, interpreted where they are kernels.
MEMBERS = ("xla", "pallas_tpu")
PLAIN = "jax"  # what they are measured against in bfloat16
# Their gradients have their output in them, rounded as it is, in place of a sum over all keys (Dao et al.
# 2022, arXiv:2205.14135, appendix B.2), which shows where a query sees a handful of keys.
FLASH = ("cudnn",)
# For kernels interpreted in bfloat16, without XLA's library of fused products: it leaves one of 1,024 x 128
# (all masks, norm and angles) that XLA cannot run on a CPU then. In float32 it is the more exact one.
BFLOAT16_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}

WIDTHS = (64, 72, 80, 88, 96, 104, 128)
# Of published towers, and their neighbours.
LENGTHS = (50, 64, 77, 196, 197, 256, 257, 576, 577, 729, 1024)
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
RESULTS = ("output", "by q", "by k", "by v")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    length: int = 17
    width: int = 64
    heads: int = 2
    batch: int = 2
    dtype: str = "float32"
    kv_len: bool = False
    lengths: bool = False
    segments: bool = False
    causal: bool = False
    norm: bool = False
    rope: bool = False

    def __str__(self):
        options = [name for name in (*MASKS, *PREPARATIONS) if getattr(self, name)]
        return "-".join([f"{self.length}x{self.heads}x{self.width}", self.dtype, *options])

    @property
    def real(self):
        """bool [B, S]: what is no padding. The second example has none but padding, where lengths vary."""
        limits_B = np.full(self.batch, self.length)
        if self.kv_len:
            limits_B[:] = self.kept
        if self.lengths:
            limits_B = np.minimum(limits_B, self.options["lengths"])
        return np.arange(self.length) < limits_B[:, None]

    @property
    def kept(self):
        return max(1, self.length - 5)

    @property
    def options(self):
        """The keyword arguments of `attention`."""
        rng = np.random.default_rng(self.length)
        found = dict(num_heads=self.heads, causal=self.causal)
        if self.kv_len:
            found["kv_len"] = self.kept
        if self.lengths:
            lengths_B = rng.integers(1, self.length + 1, self.batch, dtype=np.int32)
            lengths_B[1] = 0
            found["lengths"] = lengths_B
        if self.segments:
            # In no order, ids of any size, and none of them -1, 4 or 6: segments that are empty.
            ids = np.array([-7, 0, 5, 1_000_000], np.int32)
            found["segment_ids"] = rng.choice(ids, (self.batch, self.length))
        if self.norm:
            found["qk_norm"] = tuple(rng.normal(1, 0.3, (2, self.width)).astype(np.float32))
        if self.rope:
            own = self.batch if self.length % 2 else 1  # angles of each example, or the same for all
            found["angles"] = rng.uniform(-9, 9, (own, self.length, self.width // 2)).astype(np.float32)
        return found

    def preparations(self, b):
        """Of queries and of keys of example `b`."""
        gains = self.options.get("qk_norm", (None, None))
        angles_BSP = self.options.get("angles")
        angles_SP = None if angles_BSP is None else angles_BSP[b % len(angles_BSP)]
        return [functools.partial(preparing.prepare, gain_K=gain_K, angles_SP=angles_SP) for gain_K in gains]

    @functools.cached_property
    def arrays(self):
        """q, k, v and the gradient of the output, of the example's dtype; zeros where q, k and v are
        padding."""
        rng = np.random.default_rng(self.width)
        shape = (self.batch, self.length, self.heads * self.width)
        *qkv, gradient = (rng.normal(size=shape).astype(DTYPES[self.dtype]) for _ in range(4))
        return *(np.where(self.real[..., None], x, np.zeros_like(x)) for x in qkv), gradient

    @functools.cached_property
    def poisoned(self):
        """The same with NaN and infinity where q, k and v are padding."""
        *qkv, gradient = self.arrays
        poison_S1 = np.where(np.arange(self.length) % 2, np.inf, np.nan)[:, None]
        kept = (np.where(self.real[..., None], x, poison_S1.astype(x.dtype)) for x in qkv)
        return *kept, gradient


MASKS = ("kv_len", "lengths", "segments", "causal")
PREPARATIONS = ("norm", "rope")
EVERY_MASK = [dict(zip(MASKS, on, strict=True)) for on in itertools.product((False, True), repeat=len(MASKS))]


def reference(example, *, output=None):
    """Output and its gradients by q, k, v and, of an example with a norm, gains: Vaswani et al. 2017, eq. 1,
    and the chain rule by hand; `output`: where that has the output in it, this one.
    """
    arrays = [np.float64(x) for x in example.arrays]
    arrays[3] = arrays[3] * example.real[..., None]
    found = [np.zeros_like(arrays[0]) for _ in RESULTS]
    gains_2K = np.zeros((2, example.width))
    scale = example.width**-0.5
    for b, n in itertools.product(range(example.batch), range(example.heads)):
        part = (b, slice(None), slice(n * example.width, (n + 1) * example.width))
        q_SK, k_SK, v_SK, g_SK = (x[part] for x in arrays)
        made = [prepare(x_SK) for prepare, x_SK in zip(example.preparations(b), (q_SK, k_SK), strict=True)]
        q_SK, k_SK = (x.value_SK for x in made)
        seen_SS = visible(example, b)
        weight_SS = np.where(seen_SS, np.exp(np.where(seen_SS, scale * q_SK @ k_SK.T, 0)), 0)
        weight_SS /= np.maximum(weight_SS.sum(axis=1, keepdims=True), 1e-300)
        slope_SS = g_SK @ v_SK.T
        sum_S1 = np.sum(weight_SS * slope_SS, axis=1, keepdims=True)
        if output is not None:  # the same sum
            sum_S1 = np.sum(np.float64(output[part]) * g_SK, axis=1, keepdims=True)
        slope_SS = scale * weight_SS * (slope_SS - sum_S1)
        by_made = slope_SS @ k_SK, slope_SS.T @ q_SK
        by_given, by_gain = zip(*(x.pull(y_SK) for x, y_SK in zip(made, by_made, strict=True)), strict=True)
        gains_2K += by_gain
        for whole, value_SK in zip(found, (weight_SS @ v_SK, *by_given, weight_SS.T @ g_SK), strict=True):
            whole[part] = value_SK
    return dict(zip(RESULTS, found, strict=True)) | (dict(gains=gains_2K) if example.norm else {})


def visible(example, b):
    """bool [S, S]: which key (second axis) a query of example `b` of the batch sees."""
    seen_SS = example.real[b][:, None] & example.real[b][None]
    if example.segments:
        ids_S = example.options["segment_ids"][b]
        seen_SS &= ids_S[:, None] == ids_S[None]
    return np.tril(seen_SS) if example.causal else seen_SS


def plain(example, q, k, v, gains):
    """JAX's own attention, told by one mask who sees whom: of arrays whose padding holds nothing."""
    angles = example.options.get("angles")

    def prepared(x_BSNK, gain_K):
        x_BSNK = x_BSNK.astype(jnp.float32)
        if gain_K is not None:
            x_BSNK = jax.nn.standardize(x_BSNK, epsilon=preparing.EPS) * gain_K
        if angles is not None:
            points = lax.complex(x_BSNK[..., 0::2], x_BSNK[..., 1::2]) * jnp.exp(1j * angles[:, :, None])
            x_BSNK = jnp.stack([points.real, points.imag], axis=-1).reshape(x_BSNK.shape)
        return x_BSNK.astype(q.dtype)

    q_BSNK, k_BSNK, v_BSNK = (x.reshape(*x.shape[:2], example.heads, example.width) for x in (q, k, v))
    gains = (None, None) if gains is None else gains
    mask_BNSS = np.stack([visible(example, b)[None] for b in range(example.batch)])
    y_BSNK = jax.nn.dot_product_attention(
        prepared(q_BSNK, gains[0]), prepared(k_BSNK, gains[1]), v_BSNK, mask=mask_BNSS
    )
    return jnp.where(example.real[..., None], y_BSNK.reshape(q.shape), 0)


def run(member, example):
    """A function of q, k, v and a gradient: output and gradients by q, k, v and, if it has them, gains."""
    options = example.options
    gains = options.pop("qk_norm", None)

    def attend(q, k, v, gains):
        if member == PLAIN:
            return plain(example, q, k, v, gains)
        return attention(q, k, v, qk_norm=gains, implementation=member, **options)

    def both(q, k, v, gradient):
        output, pull = jax.vjp(attend, q, k, v, gains)
        *by_qkv, by_gains = pull(gradient)
        found = dict(zip(RESULTS, (output, *by_qkv), strict=True))
        return found if gains is None else found | dict(gains=jnp.stack(by_gains))

    return both


@functools.cache
def compiled(member, example):
    lowered = jax.jit(run(member, example)).lower(*example.arrays)
    is_mixed = member.startswith("pallas") and example.dtype == "bfloat16"
    return lowered.compile(BFLOAT16_OPTIONS if is_mixed else None)


@functools.cache
def found(member, example):
    """What a member makes of an example, with its padding poisoned."""
    arrays = example.arrays if member == PLAIN else example.poisoned
    return jax.device_get(compiled(member, example)(*arrays))


@functools.cache
def errors(member, example):
    """`distances` of what a member makes of an example."""
    return distances(found(member, example), example)


def distances(results, example):
    """By result: distance to the reference, by norm and at the worst entry, relative to its norm and to its
    largest entry.

    Where a gradient has to vanish, as that of a single token's score, rounding leaves something of the size
    of the others: relative to the largest of these.
    """
    expected = reference(example)
    apart = {name: np.float64(results[name]) - x for name, x in expected.items()}
    errors = {}
    for name, x in apart.items():
        size, norm = (
            measure(expected[name]) or max(map(measure, expected.values())) or 1.0
            for measure in (lambda x: np.abs(x).max(), np.linalg.norm)
        )
        errors[name] = np.linalg.norm(x) / norm, np.abs(x).max() / size
    return errors


def beyond(member, example, standard=PLAIN):
    """Results that are further off than they may be: their errors and the limits; NaN is beyond all.

    float32: 1e-6 by norm, and 2e-6 at any entry; of long rows 4e-6, for the one of some hundred thousand that
    rounding hits most (by q `pallas_tpu` has 2.7e-6 at 576 x 128 with norm and angles, JAX's own attention
    2.2e-6 at 1,024 x 128). Else 1.5 times what the standard is off, by norm; of gradients that have the
    output in them, and what its own error makes of them.
    """
    limits = dict.fromkeys((*RESULTS, "gains"), (1e-6, 2e-6 if example.length < 500 else 4e-6))
    if example.dtype != "float32":
        limits = {name: (1.5 * norm + 1e-6, np.inf) for name, (norm, _) in errors(standard, example).items()}
    if member in FLASH:
        moved = distances(reference(example, output=found(member, example)["output"]), example)
        limits = {name: (limits[name][0] + norm, limits[name][1]) for name, (norm, _) in moved.items()}
    return {
        name: (error, limits[name])
        for name, error in errors(member, example).items()
        if not np.less_equal(error, limits[name]).all()
    }


def forget(example):
    """Frees what was made of it: a process has room for the programs of some hundred examples."""
    for made in (compiled, found, errors):
        made.cache_clear()
    for name in ("arrays", "poisoned"):
        vars(example).pop(name, None)
    jax.clear_caches()


def random(shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)
