"""Attention of NVIDIA's cuDNN: of bfloat16 and float16, of any length.

XLA knows cuDNN's attention as custom calls by name. `jax.nn.dot_product_attention` makes the same ones, but
it refuses gradients of odd lengths, which cuDNN wants even only where there is a bias; it asks the machine
that traces for its GPU; and it keeps queries, keys, values and the output for the backward pass once more.
So the calls are made here, and a test holds them equal to JAX's where JAX makes one (test_cudnn.py).

Letters: B batch, S queries, T keys, N heads, K head width, X = N x K.
"""

import json

import einops
import jax
import jax.numpy as jnp

from mmjax.kernels.attention import devices
from mmjax.kernels.attention.case import Arrays, Case
from mmjax.kernels.attention.layout import apart, together

_AMPERE, _HOPPER = 8.0, 9.0

# Products of either pass as XLA names them, and as einsum would have them; P and dP are "bnst".
_FORWARD = {"bmm1": "bsnk,btnk", "bmm2": "bnst,btnk"}
_BACKWARD = {
    "bmm1_grad_gemm1": "bnst,bsnk",
    "bmm1_grad_gemm2": "bnst,btnk",
    "bmm2_grad_gemm1": "bnst,bsnk",
    "bmm2_grad_gemm2": "bsnk,btnk",
}


def refusal(case: Case) -> str | None:
    """Why cuDNN cannot serve a case; None: it can."""
    if case.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, not in {case.dtype}"
    if case.segments:
        return "segment_ids need a mask as large as the scores, which it wants of even lengths"
    if not case.is_self:
        return f"it wants as many queries as keys, of one sequence, not {case.queries} and {case.keys}"
    capability = devices.cuda_capability()
    # A machine that only compiles for GPUs does not know which; what all of them serve, it may take.
    if capability is None and "cuda" in devices.compilable():
        capability = _AMPERE
    if capability is None or capability < _AMPERE:
        return "it needs an NVIDIA GPU of compute capability 8.0 or later, which is not here"
    widest = 128 if capability < _HOPPER else 256
    if case.width % 8 or case.width > widest:
        return f"head widths are multiples of 8 up to {widest} here, not {case.width}"
    return None


def forward(case: Case, arrays: Arrays, *, interpret: bool):
    """The output, and the logarithm of each row's sum of exponentials, [B, N, S]."""
    *qkv, lengths_B, _ = apart(case, arrays)
    batch, positions, heads, _ = qkv[0].shape
    sums = jax.ShapeDtypeStruct((batch, heads, positions), jnp.float32)
    y_BSNK, sums_BNS = _call("__cudnn$fmhaSoftmax", case, _FORWARD, qkv, lengths_B, 1, [sums])
    return together(case, y_BSNK, lengths_B), sums_BNS


def backward(case: Case, arrays: Arrays, y_BSX, sums_BNS, gradient_BSX, *, interpret: bool) -> Arrays:
    qkv, pull = jax.vjp(lambda *qkv: apart(case, Arrays(*qkv, *arrays[3:]))[:3], *arrays[:3])
    # The output's gradient as the output was put together: without padding, or zero where that is.
    y_BSNK, given_BSNK, _, lengths_B, _ = apart(case, arrays._replace(q_BSX=y_BSX, k_BTX=gradient_BSX))
    operands = [*qkv, sums_BNS, given_BSNK, y_BSNK]
    return Arrays(*pull(_call("__cudnn$fmhaSoftmaxBackward", case, _BACKWARD, operands, lengths_B, 3, [])))


def _call(name, case, products, operands, lengths_B, count, others):
    """`count` arrays as queries are, [B, S, N, K], and arrays like `others`."""
    if case.lengths:
        # An example without positions has one here, for a sum of nothing is 0; all is cleared afterwards.
        operands = [*operands, *[jnp.maximum(lengths_B, 1)] * 2]  # of queries, and of keys
    batch, positions, heads, width = operands[0].shape
    # As XLA has it, heads come before positions; in memory they do not.
    own = [jax.ShapeDtypeStruct((batch, heads, positions, width), case.dtype)] * count
    workspace = jax.ShapeDtypeStruct((0,), jnp.uint8)
    call = jax.ffi.ffi_call(
        name,
        [*own, *others, workspace],
        vmap_method="sequential",
        output_layouts=[*[(0, 2, 1, 3)] * count, *[None] * len(others), None],
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(_config(case, products, (batch, heads, positions, positions))),
    )
    *found, _ = call(*operands)
    return *(einops.rearrange(x, "b n s k -> b s n k") for x in found[:count]), *found[count:]


def _config(case: Case, products, scores_shape):
    """XLA's GpuBackendConfig, without what is zero by default."""
    mask = "_".join(["PADDING"] * case.lengths + ["CAUSAL"] * case.causal) or "NO_MASK"
    scores = dict(
        element_type={"bfloat16": "BF16", "float16": "F16"}[str(case.dtype)],
        dimensions=[str(size) for size in scores_shape],
        layout=dict(minor_to_major=["3", "2", "1", "0"]),
        is_dynamic_dimension=[False] * 4,
    )
    algorithm = dict(
        math_type="TENSOR_OP_MATH",
        tuning_knobs={"17": "1", "24": "0"},
        is_cudnn_frontend=True,
        workspace_size="0",
    )
    attention = dict(
        algorithm=algorithm,
        fmha_scale=case.scale,
        intermediate_tensor_shape=scores,
        is_flash_attention=True,
        mask_type=mask,
        max_seg_per_batch=1,
        **{f"{product}_dot_dimension_numbers": _numbers(axes) for product, axes in products.items()},
    )
    return dict(operation_queue_id="0", cudnn_fmha_backend_config=attention)


def _numbers(axes):
    """XLA's DotDimensionNumbers of a product; both factors have examples and heads."""
    sides = dict(zip(("lhs", "rhs"), axes.split(","), strict=True))
    (summed,) = set.intersection(*map(set, sides.values())) - set("bn")
    kinds = dict(contracting=summed, batch="bn")
    return {
        f"{side}_{kind}_dimensions": [str(letters.index(letter)) for letter in wanted]
        for side, letters in sides.items()
        for kind, wanted in kinds.items()
    }
