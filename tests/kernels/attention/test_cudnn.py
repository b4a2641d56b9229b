"""cuDNN's attention as it is handed to XLA: traced and lowered for CUDA on any machine, run on none.

What the calls are, JAX says itself, for the lengths of which it takes gradients. What surrounds them
(padding, masks, heads) runs here with a stand-in for the calls, in plain JAX.

Letters: B batch, S queries, T keys, N heads, K head width.
"""

import itertools
import json
import re

import attending
import jax
import jax.numpy as jnp
import pytest
from attending import LENGTHS, RESULTS, Example, random

from mmjax import sharding
from mmjax.kernels.attention import SAVED, attention, choice, cudnn, devices
from mmjax.kernels.attention.case import Case
from mmjax.sharding import MeshShape

FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
MASKS = [
    dict(zip(("kv_len", "lengths", "causal"), on, strict=True))
    for on in itertools.product((False, True), repeat=3)
]


@pytest.fixture(autouse=True)
def compiles_for_cuda(monkeypatch):
    """As a machine does that has JAX's plugin for CUDA, and no GPU."""
    monkeypatch.setattr(devices, "cuda_capability", lambda: None)
    monkeypatch.setattr(devices, "compilable", lambda: frozenset(["cuda"]))


def program(function, *args):
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def calls(text):
    """(name, configuration, layouts, types) of every call of cuDNN in a program."""
    found = re.findall(r"custom_call @(__cudnn\S+?)\((?:.*?)\) \{(.*)\} : (.*)", text)
    for name, attributes, types in found:
        config = re.search(r'backend_config = "([^"]*)"', attributes)[1].replace("\\22", '"')
        layouts = attributes[attributes.index("operand_layouts") :]
        yield name, stated(json.loads(config)), layouts, types


def stated(value):
    """Without what is zero, as fields are that a message leaves out, and without dropout's seed."""
    if not isinstance(value, dict):
        return value
    kept = {name: stated(x) for name, x in value.items() if name != "seed"}
    zeros = (0, "0", [], {}, "PRIMITIVE_TYPE_INVALID")
    return {name: x for name, x in kept.items() if x not in zeros or name in ("workspace_size", "24")}


@pytest.mark.parametrize(
    "masks, lengths",
    [(masks, LENGTHS if len(set(masks.values())) == 1 else (77, 196)) for masks in MASKS],
    ids=str,
)
def test_every_published_length_has_an_output_and_gradients(masks, lengths):
    for length in lengths:
        example = Example(length=length, dtype="bfloat16", **masks)
        x = jax.ShapeDtypeStruct((2, length, 128), jnp.bfloat16)
        text = program(attending.run("cudnn", example), x, x, x, x)
        assert [name for name, *_ in calls(text)] == [FORWARD, BACKWARD], length


def test_auto_takes_it_for_cuda():
    x = jax.ShapeDtypeStruct((2, 197, 128), jnp.bfloat16)
    text = program(attending.run("auto", Example()), x, x, x, x)
    assert [name for name, *_ in calls(text)] == [FORWARD, BACKWARD]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("has_lengths", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_the_calls_are_jaxs_own(monkeypatch, dtype, has_lengths, causal):
    """Of an even length. JAX wants a GPU here, and its cuDNN, before it makes them."""
    jaxs = "jax._src.cudnn.fused_attention_stablehlo."
    monkeypatch.setattr(jaxs + "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(jaxs + "check_compute_capability", lambda _: True)
    x = jax.ShapeDtypeStruct((4, 196, 3 * 72), dtype)
    lengths = jax.ShapeDtypeStruct((4,), jnp.int32) if has_lengths else None
    options = dict(scale=0.3, implementation="cudnn")

    def plain(q, k, v, lengths):
        heads = (x.reshape(4, 196, 3, 72) for x in (q, k, v))
        limits = dict(query_seq_lengths=lengths, key_value_seq_lengths=lengths)
        return jax.nn.dot_product_attention(*heads, is_causal=causal, **limits, **options).reshape(q.shape)

    def ours(q, k, v, lengths):
        return attention(q, k, v, num_heads=3, lengths=lengths, causal=causal, **options)

    def both(attend):
        def run(q, k, v, lengths, gradient):
            output, pull = jax.vjp(lambda q, k, v: attend(q, k, v, lengths), q, k, v)
            return output, pull(gradient)

        return list(calls(program(run, x, x, x, lengths, x)))

    found, expected = both(ours), both(plain)
    assert [name for name, *_ in found] == [FORWARD, BACKWARD]
    assert found == expected


def stand_in(name, case, products, operands, lengths_B, count, others):
    """What the calls compute, as cuDNN documents it."""
    q_BSNK, k_BTNK, v_BTNK, *rest = (jnp.asarray(x, jnp.float32) for x in operands)
    positions = q_BSNK.shape[1]
    seen_BNST = jnp.ones((len(q_BSNK), 1, positions, positions), bool)
    if case.lengths:
        limits_B = jnp.maximum(lengths_B, 1)
        seen_BNST &= (jnp.arange(positions) < limits_B[:, None])[:, None, None]
    if case.causal:
        seen_BNST &= jnp.tril(seen_BNST)
    scores_BNST = case.scale * jnp.einsum("bsnk,btnk->bnst", q_BSNK, k_BTNK)
    scores_BNST = jnp.where(seen_BNST, scores_BNST, -jnp.inf)
    if name == FORWARD:
        sums_BNS = jax.nn.logsumexp(scores_BNST, axis=-1)
        p_BNST = jnp.exp(scores_BNST - sums_BNS[..., None])
        return jnp.einsum("bnst,btnk->bsnk", p_BNST, v_BTNK).astype(case.dtype), sums_BNS
    sums_BNS, do_BSNK, o_BSNK = rest
    p_BNST = jnp.exp(scores_BNST - sums_BNS[..., None])
    slope_BNST = jnp.einsum("bsnk,btnk->bnst", do_BSNK, v_BTNK)
    slope_BNST -= jnp.einsum("bsnk,bsnk->bns", do_BSNK, o_BSNK)[..., None]
    ds_BNST = case.scale * p_BNST * slope_BNST
    found = (
        jnp.einsum("bnst,btnk->bsnk", ds_BNST, k_BTNK),
        jnp.einsum("bnst,bsnk->btnk", ds_BNST, q_BSNK),
        jnp.einsum("bnst,bsnk->btnk", p_BNST, do_BSNK),
    )
    return tuple(x.astype(case.dtype) for x in found)


# No length is one of the tests before, whose programs JAX keeps.
@pytest.mark.parametrize(
    "example",
    [
        Example(length=13, dtype="bfloat16", kv_len=True, lengths=True),
        Example(length=15, dtype="bfloat16", lengths=True, causal=True, norm=True, rope=True),
        Example(length=17, dtype="bfloat16", kv_len=True, causal=True),
    ],
    ids=str,
)
def test_around_the_calls_padding_is_cut_or_cleared(monkeypatch, example):
    monkeypatch.setattr(cudnn, "_call", stand_in)
    assert attending.beyond("cudnn", example, standard="xla") == {}
    for name in RESULTS:
        assert not attending.found("cudnn", example)[name][~example.real].any(), name


@pytest.mark.parametrize("options", [{}, dict(causal=True), dict(lengths=jnp.array([77, 1, 0, 5]))], ids=str)
def test_the_backward_pass_keeps_arrays_once_and_a_sum_for_every_row(options):
    x = jax.ShapeDtypeStruct((4, 77, 12 * 64), jnp.bfloat16)

    def attend(q, k, v):
        return attention(q, k, v, num_heads=12, **options)

    kept = jax.eval_shape(lambda *qkv: jax.vjp(attend, *qkv)[1], x, x, x)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    sums, lengths = 4 * 12 * 77 * 4, 4 * 4
    # Queries, keys, values and the output.
    assert size <= 4 * 2 * x.size + sums + lengths


def test_policies_that_save_the_output_save_the_call():
    x = jax.ShapeDtypeStruct((2, 77, 128), jnp.bfloat16)
    for saved, expected in ((SAVED, 1), ("nothing", 2)):
        policy = jax.checkpoint_policies.save_only_these_names(saved)
        layer = jax.checkpoint(lambda x: jnp.sin(attention(x, x, x, num_heads=2)).sum(), policy=policy)
        text = program(jax.value_and_grad(layer), x)
        # The function around the call is in the text once, however often it is called.
        assert len(re.findall(r"call @_forward_of", text)) == expected


def test_on_a_mesh_each_device_calls_it_for_its_own_examples_and_heads():
    mesh = sharding.make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    example = Example(length=77, batch=8, heads=4, dtype="bfloat16", lengths=True)
    with jax.set_mesh(mesh):
        found = list(calls(program(attending.run("auto", example), *example.arrays)))
    assert [name for name, *_ in found] == [FORWARD, BACKWARD]
    for _, config, *_ in found:
        scores = config["cudnn_fmha_backend_config"]["intermediate_tensor_shape"]
        assert scores["dimensions"] == ["2", "2", "77", "77"]


def test_mapped_it_is_a_loop():
    x = random((3, 2, 77, 128), dtype=jnp.bfloat16)
    text = program(jax.vmap(lambda x: attention(x, x, x, num_heads=2)), x)
    assert [name for name, *_ in calls(text)] == [FORWARD] and "stablehlo.while" in text


@pytest.mark.parametrize(
    "capability, widest", [(None, 128), (8.0, 128), (8.9, 128), (9.0, 256), (10.0, 256)], ids=str
)
def test_without_a_gpu_it_serves_what_all_gpus_do(monkeypatch, capability, widest):
    monkeypatch.setattr(devices, "cuda_capability", lambda: capability)
    sizes = dict(batch=2, queries=77, keys=77, heads=2, dtype=jnp.dtype("bfloat16"), scale=0.1)
    found = {
        width: choice.choose("auto", Case(width=width, **sizes))["cuda"] for width in range(8, 264 + 1, 8)
    }
    assert [width for width, name in found.items() if name == "cudnn"] == list(range(8, widest + 1, 8))
