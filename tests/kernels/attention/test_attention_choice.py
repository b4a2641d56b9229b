"""What attention refuses, in one line that says what to do; what it chooses, says and costs."""

import attending
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attending import random

from mmjax.kernels.attention import attention, choice, devices, dispatch
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
        (
            dict(q=X[:, :1], causal=True),
            "^causal need queries and keys of one sequence, got 1 and 5; mask by",
        ),
        (
            dict(cross=True, segment_ids=jnp.ones((2, 5), jnp.int32)),
            "got 5 and 5 with cross=True; mask by len",
        ),
        (dict(qk_norm=(X[0, 0, :32], X[0, 0])), "qk_norm has two gains of shape .32,., got ..32,., .64,.."),
        (dict(angles=X[:1, :, :8]), "one for every two of 32 features, .2 or 1, 5, 16., got .1, 5, 8."),
        (
            dict(q=X[:, :1], angles=X[:1, :1, :16]),
            "^angles need queries and keys of one sequence, got 1 and 5; ",
        ),
        (dict(implementation="flash"), "implementation='flash' is none of .'auto', 'pallas_tpu'"),
    ],
)
def test_what_does_not_fit_is_an_error_of_one_line(change, message):
    args = dict(q=X, k=X, v=X, num_heads=2) | change
    with pytest.raises(ValueError, match=message) as caught:
        attention(args.pop("q"), args.pop("k"), args.pop("v"), **args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, capability, fields, reason",
    [
        ("cudnn", 9.0, dict(dtype=jnp.dtype("float32")), "float32 .2, 5, 2 x 32.: it computes in bfloat16"),
        ("cudnn", 9.0, dict(width=36), "multiples of 8 up to 256 here, not 36"),
        ("cudnn", 9.0, dict(width=264), "multiples of 8 up to 256 here, not 264"),
        ("cudnn", 8.9, dict(width=136), "multiples of 8 up to 128 here, not 136"),
        ("cudnn", 9.0, dict(segments=True), "segment_ids: segment_ids need a mask as large as the scores"),
        ("cudnn", 9.0, dict(queries=1), "as many queries as keys, of one sequence, not 1 and 5"),
        ("cudnn", 7.5, dict(), "needs an NVIDIA GPU of compute capability 8.0"),
        ("cudnn", None, dict(), "needs an NVIDIA GPU of compute capability 8.0"),
        ("pallas_tpu", None, dict(queries=1), "as many queries as keys, of one sequence, not 1 and 5"),
        ("pallas_tpu", None, dict(cross=True), "as many queries as keys, of one sequence, not 5 and 5"),
        ("pallas_tpu", None, dict(dtype=jnp.dtype("float16")), "bfloat16 or float32, not in float16"),
    ],
)
def test_an_implementation_that_cannot_serve_says_why_and_who_can(
    monkeypatch, name, capability, fields, reason
):
    monkeypatch.setattr(devices, "cuda_capability", lambda: capability)
    with pytest.raises(NotImplementedError, match=f'^{name} .*{reason}.*use implementation="xla"$'):
        choice.choose(name, case(**fields))


def test_cudnn_serves_what_its_makers_say(monkeypatch):
    monkeypatch.setattr(devices, "cuda_capability", lambda: 8.0)
    monkeypatch.setattr(devices, "compilable", lambda: frozenset(("cuda",)))
    large = case(queries=577, keys=577, width=88, causal=True, lengths=True)
    assert choice.choose("auto", large) == {"cuda": "cudnn", None: "xla"}


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


def test_a_kernel_asked_for_elsewhere_is_interpreted_after_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(devices, "compilable", frozenset)
    dispatch._warn.cache_clear()
    for length in (3, 4):
        x = random((1, length, 64))
        close = attention(x, x, x, num_heads=1, implementation="xla")
        np.testing.assert_allclose(
            attention(x, x, x, num_heads=1, implementation="pallas_tpu"), close, atol=1e-6
        )
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert lines == ["no device of platform tpu is here: pallas_tpu is interpreted, which is slow"]


def test_a_cpu_that_compiles_for_others_takes_xla_itself(monkeypatch):
    monkeypatch.setattr(devices, "compilable", lambda: frozenset(("tpu",)))
    x = random((2, 6, 64))

    def gradient(x, implementation):
        return jax.grad(
            lambda x: jnp.sum(
                attention(x, x, x, num_heads=1, causal=True, implementation=implementation) ** 2
            )
        )(x)

    chosen = str(jax.make_jaxpr(lambda x: gradient(x, "auto"))(x))
    assert "pallas_call" in chosen
    found, expected = (jax.jit(gradient, static_argnums=1)(x, name) for name in ("auto", "xla"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("platforms", [(), ("cuda",), ("cuda", "tpu")])
def test_auto_has_an_answer_for_every_platform_that_can_be_compiled_for(monkeypatch, platforms):
    monkeypatch.setattr(devices, "compilable", lambda: frozenset(platforms))
    chosen = choice.choose("auto", case())
    assert set(chosen) == {*platforms, None} and chosen[None] == "xla"
    assert all(choice.MEMBERS[name].refusal(case()) is None for name in chosen.values())


def test_what_only_xla_serves_needs_no_choice_by_platform(monkeypatch):
    monkeypatch.setattr(devices, "compilable", lambda: frozenset(("cuda", "tpu")))
    assert set(choice.choose("auto", case(queries=1)).values()) == {"xla"}


def test_rows_are_normalised_and_turned_in_the_kernel_and_else_before_it():
    fields = dict(norm=True, rope=True)
    assert choice.prepares("pallas_tpu", case(**fields))
    assert not choice.prepares("pallas_tpu", case(queries=2000, keys=2000, **fields))
    assert not any(choice.prepares(name, case(**fields)) for name in ("pallas_gpu", "cudnn", "xla"))


def test_members_of_the_suite_are_those_that_run_here():
    # The Hopper kernels' interpreter takes seconds a head: test_pallas_gpu.py.
    assert set(attending.MEMBERS) == set(choice.MEMBERS) - {"cudnn", "pallas_gpu"}
    assert dispatch.MEMBERS is choice.MEMBERS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("causal", [False, True])
def test_on_a_cpu_auto_costs_what_jax_itself_does(monkeypatch, dtype, causal):
    monkeypatch.setattr(devices, "compilable", frozenset)
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
