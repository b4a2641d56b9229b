"""What attention refuses, in one line that says what to do; what it chooses, says and costs."""

import attending
import jax
import jax.numpy as jnp
import pytest
from attending import random

from mmjax.kernels.attention import attention, choice, dispatch
from mmjax.kernels.attention.case import Case

X = random((2, 5, 64))


def case(**fields):
    sizes = dict(batch=2, queries=5, keys=5, heads=2, width=32, dtype=jnp.dtype("bfloat16"), scale=0.1)
    return Case(**sizes | fields)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(q=X[0]), "q, k and v are .B, S, X., .B, T, X. and .B, T, X., got .5, 64., "),
        (dict(k=X[:, :4]), "got .2, 5, 64., .2, 4, 64. and .2, 5, 64."),
        (dict(q=X[:1]), "got .1, 5, 64."),
        (dict(q=X[:, :0]), "leave out what is empty"),
        (dict(q=X.astype(jnp.bfloat16)), "one floating dtype, got bfloat16, float32 and float32"),
        (dict(num_heads=3), "64 features do not divide over num_heads=3"),
        (dict(num_heads=0), "num_heads=0"),
        (dict(kv_len=6), "kv_len=6 is not in 1 ... 5"),
        (dict(lengths=jnp.ones(5, jnp.int32)), "lengths are integers of shape .2,., got int32 of shape .5,."),
        (dict(lengths=jnp.ones(2)), "lengths are integers of shape .2,., got float32"),
        (dict(segment_ids=jnp.ones((1, 5), jnp.int32)), "segment_ids are integers of shape .2, 5."),
        (dict(q=X[:, :1], causal=True), "need as many queries as keys, got 1 and 5; mask by lengths"),
        (dict(implementation="flash"), "implementation='flash' is none of .'auto', 'pallas_tpu'"),
    ],
)
def test_what_does_not_fit_is_an_error_of_one_line(change, message):
    args = dict(q=X, k=X, v=X, num_heads=2) | change
    with pytest.raises(ValueError, match=message) as caught:
        attention(args.pop("q"), args.pop("k"), args.pop("v"), **args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields, reason",
    [
        (dict(dtype=jnp.dtype("float32")), "float32 .2, 5, 2 x 32.: it computes in bfloat16 or float16"),
        (dict(width=36), "multiples of 8 up to 256, not 36"),
        (dict(width=264), "multiples of 8 up to 256, not 264"),
        (dict(segments=True), "segment_ids: segment_ids need a mask as large as the scores"),
        (dict(queries=1), "as many queries as keys, not 1 and 5"),
        (dict(), "there is no plugin of JAX for CUDA"),
    ],
)
def test_an_implementation_that_cannot_serve_says_why_and_who_can(monkeypatch, fields, reason):
    monkeypatch.setattr(choice, "compilable", frozenset)
    with pytest.raises(NotImplementedError, match=f'{reason}.*use implementation="xla"'):
        choice.choose("cudnn", case(**fields))


def test_the_choice_is_logged_once_for_every_case(caplog):
    caplog.set_level("INFO", logger="mmjax")
    x = random((3, 11, 24))
    run = jax.jit(lambda x: attention(x, x, x, num_heads=4, causal=True))
    for _ in range(2):
        run(x)
        attention(x, x, x, num_heads=4, causal=True)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("attention of float32 [3, 11, 4 x 6] causal: xla")


@pytest.mark.parametrize("platforms", [(), ("cuda",), ("cuda", "tpu")])
def test_auto_has_an_answer_for_every_platform_that_can_be_compiled_for(monkeypatch, platforms):
    monkeypatch.setattr(choice, "compilable", lambda: frozenset(platforms))
    chosen = choice.choose("auto", case())
    assert set(chosen) == {*platforms, None} and chosen[None] == "xla"
    assert all(choice.MEMBERS[name].refusal(case()) is None for name in chosen.values())


def test_what_only_xla_serves_needs_no_choice_by_platform(monkeypatch):
    monkeypatch.setattr(choice, "compilable", lambda: frozenset(("cuda", "tpu")))
    assert set(choice.choose("auto", case(queries=1)).values()) == {"xla"}


def test_members_of_the_suite_are_those_that_run_here():
    # The Hopper kernels' interpreter takes seconds a head: test_pallas_gpu.py.
    assert set(attending.MEMBERS) == set(choice.MEMBERS) - {"cudnn", "pallas_gpu"}
    assert dispatch.MEMBERS is choice.MEMBERS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("causal", [False, True])
def test_on_a_cpu_auto_costs_what_jax_itself_does(monkeypatch, dtype, causal):
    monkeypatch.setattr(choice, "compilable", frozenset)
    x = random((2, 9, 64), dtype=dtype)

    def plain(q, k, v):
        apart = (x.reshape(2, 9, 4, 16) for x in (q, k, v))
        return jax.nn.dot_product_attention(*apart, is_causal=causal).reshape(q.shape)

    def auto(q, k, v):
        return attention(q, k, v, num_heads=4, causal=causal)

    def cost(attend):
        run = jax.jit(lambda q, k, v, gradient: jax.vjp(attend, q, k, v)[1](gradient))
        found = run.lower(x, x, x, x).compile().cost_analysis()
        return {name: found[name] for name in ("flops", "bytes accessed", "transcendentals")}

    assert cost(auto) == cost(plain)
