"""Every option of the contrastive losses: its value against float64 NumPy written from the papers' equations
on a matrix of logits, its streamed gradient against autodiff of the dense form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contrasting import assert_close, on_eight_devices, unit_rows

from mmjax.kernels import contrastive
from mmjax.kernels.contrastive import Further

B, E = 40, 12
IDS = np.random.default_rng(2).integers(0, 25, (B, 2)).astype(np.int32)
PRESENT = np.random.default_rng(3).random(B) < 0.7
SCALES = np.random.default_rng(4).uniform(3, 20, B).astype(np.float32)
MORE_X, MORE_Y = unit_rows(5, 16, E), unit_rows(6, 16, E)
HARD = unit_rows(7, B * 3, E).reshape(B, 3, E)
HARD_THERE = np.random.default_rng(10).random((B, 3)) < 0.5
MORE_IDS = np.random.default_rng(11).integers(0, 25, (16, 2)).astype(np.int32)
MORE_THERE = np.random.default_rng(12).random((2, 16)) < 0.7
LABELLED = {
    f"more_{side}": Further(more, MORE_IDS, there)
    for side, more, there in zip("xy", (MORE_X, MORE_Y), MORE_THERE, strict=True)
}
SELF = np.eye(B, dtype=bool)
ALIKE = (IDS[:, None] == IDS[None]).any(axis=2)
ALL = np.ones((B, B), bool)


def cross_entropy(logits_BB, compared_BB, target_BB):
    """Mean over rows of -sum_j target_ij log(exp s_ij / sum of exp s_ik over what is compared)."""
    total = 0.0
    for i in range(len(logits_BB)):
        norm = np.log(np.exp(logits_BB[i])[compared_BB[i]].sum())
        total -= (target_BB[i] * (logits_BB[i] - norm)).sum()
    return total / len(logits_BB)


def both_ways(compared_BB=ALL, target_BB=SELF):
    """Of symmetric masks; targets are shared evenly within a row."""
    target_BB = target_BB / target_BB.sum(axis=1, keepdims=True)

    def value(x, y, scale):
        logits_BB = scale * x @ y.T
        ways = [cross_entropy(s, compared_BB, target_BB) for s in (logits_BB, logits_BB.T)]
        return sum(ways) / 2

    return value


def of_those_present(x, y, scale):
    rows = np.eye(PRESENT.sum(), dtype=bool)
    logits = scale * x[PRESENT] @ y[PRESENT].T
    return sum(cross_entropy(s, np.ones_like(rows), rows) for s in (logits, logits.T)) / 2


def one_way(x, y, scale):
    return cross_entropy(scale * x @ y.T, ALL, SELF)


def with_further(x, y, scale):
    """Rows see MORE_Y and their own of HARD, columns MORE_X."""
    total = 0.0
    for i in range(B):
        right = scale * x[i] @ y[i]
        others = [y, MORE_Y, HARD[i]]
        total -= right - np.log(sum(np.exp(scale * np.float64(z) @ x[i]).sum() for z in others))
        total -= right - np.log(sum(np.exp(scale * np.float64(z) @ y[i]).sum() for z in (x, MORE_X)))
    return total / 2 / B


def with_labelled(duplicates):
    """Rows and columns see what is there of MORE, whose ids count as those of the batch do."""

    def value(x, y, scale):
        total = 0.0
        for own, other, more, there in ((x, y, MORE_Y, MORE_THERE[1]), (y, x, MORE_X, MORE_THERE[0])):
            for i in range(B):
                logits = scale * np.concatenate([other, more]) @ own[i]
                alike = np.concatenate([ALIKE[i], (MORE_IDS == IDS[i]).any(axis=1)])
                exists = np.concatenate([ALL[i], there])
                itself = np.concatenate([SELF[i], np.zeros(16, bool)])
                right = exists & alike if duplicates == "positives" else itself
                compared = exists & (itself | ~alike) if duplicates == "masked" else exists
                total += np.log(np.exp(logits[compared]).sum()) - logits[right].mean()
        return total / 2 / B

    return value


def with_some_hard(x, y, scale):
    total = 0.0
    for i in range(B):
        right = scale * x[i] @ y[i]
        negatives = np.float64(HARD[i][HARD_THERE[i]])
        total -= right - np.log(np.exp(scale * np.concatenate([y, negatives]) @ x[i]).sum())
        total -= right - np.log(np.exp(scale * x @ y[i]).sum())
    return total / 2 / B


def own_temperatures(x, y, scale):
    ways = [cross_entropy(SCALES[:, None] * s, ALL, SELF) for s in (x @ y.T, y @ x.T)]
    return sum(ways) / 2


INFONCE = {
    "plain": (both_ways(), {}),
    "masked": (both_ways(~ALIKE | SELF), dict(ids_BK=IDS, duplicates="masked")),
    "positives": (both_ways(target_BB=ALIKE), dict(ids_BK=IDS, duplicates="positives")),
    "decoupled": (both_ways(~SELF), dict(decoupled=True)),
    "masked, decoupled": (both_ways(~ALIKE), dict(ids_BK=IDS, duplicates="masked", decoupled=True)),
    "smoothed": (both_ways(target_BB=0.9 * SELF + 0.1 / B), dict(smoothing=0.1)),
    "masked, smoothed": (
        both_ways(
            ~ALIKE | SELF,
            0.9 * SELF + 0.1 * (~ALIKE | SELF) / (~ALIKE | SELF).sum(axis=1, keepdims=True),
        ),
        dict(ids_BK=IDS, duplicates="masked", smoothing=0.1),
    ),
    "one way": (one_way, dict(direction="x_to_y")),
    "present": (of_those_present, dict(present_B=PRESENT)),
    "further": (with_further, dict(more_x=Further(MORE_X), more_y=Further(MORE_Y), hard_y_BKE=HARD)),
    "hard, some": (with_some_hard, dict(hard_y_BKE=HARD, hard_present_BK=HARD_THERE)),
    "further, masked": (with_labelled("masked"), dict(ids_BK=IDS, duplicates="masked", **LABELLED)),
    "further, positives": (with_labelled("positives"), dict(ids_BK=IDS, duplicates="positives", **LABELLED)),
    "further, negatives": (with_labelled("negatives"), dict(ids_BK=IDS, **LABELLED)),
}


def check(loss, expected, *args, implementation):
    dense = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(args)))))(*args)
    np.testing.assert_allclose(dense[0], expected, rtol=2e-6)
    streamed = on_eight_devices(functools.partial(loss, implementation=implementation), *args)
    assert_close(streamed, dense, rtol=2e-6)


@pytest.mark.parametrize("name", INFONCE)
def test_infonce_with_an_option_equals_its_equation_and_streams(name, many_small_tiles):
    equation, options = INFONCE[name]
    x, y = unit_rows(0, B, E), unit_rows(1, B, E)
    implementation = "ring" if list(INFONCE).index(name) % 2 else "gather"
    check(
        functools.partial(contrastive.infonce, **options),
        equation(np.float64(x), np.float64(y), 9.0),
        *(x, y, 9.0),
        implementation=implementation,
    )


def test_each_pair_may_have_its_own_temperature(many_small_tiles):
    x, y = unit_rows(0, B, E), unit_rows(1, B, E)
    expected = own_temperatures(np.float64(x), np.float64(y), None)
    check(contrastive.infonce, expected, x, y, SCALES, implementation="ring")


def signs(duplicates):
    if duplicates == "positives":
        return np.where(ALIKE, 1, -1)
    return np.where(SELF, 1, np.where(ALIKE, 0, -1) if duplicates == "masked" else -1)


@pytest.mark.parametrize(
    ("duplicates", "smoothing", "present"),
    [("masked", 0.0, None), ("positives", 0.2, None), ("negatives", 0.0, PRESENT)],
)
def test_sigmoid_with_an_option_equals_its_equation_and_streams(
    duplicates, smoothing, present, many_small_tiles
):
    x, y = unit_rows(0, B, E), unit_rows(1, B, E)
    scale, sign_BB = 9.0, signs(duplicates)
    bias = 1.0  # with a low one the gradients of yes and no cancel, and rounding is what is left
    logits_BB = scale * np.float64(x) @ np.float64(y).T + bias
    yes, no = np.log1p(np.exp(-logits_BB)), np.log1p(np.exp(logits_BB))
    wanted_BB = (1 - smoothing) * (sign_BB > 0) + smoothing / 2
    losses_BB = np.abs(sign_BB) * (wanted_BB * yes + (1 - wanted_BB) * no)
    there = slice(None) if present is None else present
    expected = losses_BB[there][:, there].sum() / len(losses_BB[there])
    options = dict(ids_BK=IDS, duplicates=duplicates, smoothing=smoothing, present_B=present)
    loss = functools.partial(contrastive.sigmoid, **options)
    check(loss, expected, x, y, scale, bias, implementation="ring")


@pytest.mark.parametrize(
    ("duplicates", "smoothing"), [("negatives", 0.0), ("masked", 0.0), ("positives", 0.2)]
)
def test_sigmoid_asks_about_further_embeddings_too(duplicates, smoothing, many_small_tiles):
    x, y, scale, bias = unit_rows(0, B, E), unit_rows(1, B, E), 9.0, 1.0

    def questions(own, other, alike, itself, exists):
        """Sum of the losses of all that is asked of one row."""
        logits = scale * np.float64(other) @ np.float64(own) + bias
        yes = alike if duplicates == "positives" else itself
        asked = exists & (itself | ~alike) if duplicates == "masked" else exists
        wanted = (1 - smoothing) * yes + smoothing / 2
        losses = wanted * np.log1p(np.exp(-logits)) + (1 - wanted) * np.log1p(np.exp(logits))
        return losses[asked].sum()

    nothing, everything = np.zeros(16, bool), np.ones(3, bool)
    expected = 0.0
    for i in range(B):
        alike = (MORE_IDS == IDS[i]).any(axis=1)
        expected += questions(x[i], y, ALIKE[i], SELF[i], ALL[i])
        expected += questions(x[i], MORE_Y, alike, nothing, MORE_THERE[1])
        expected += questions(y[i], MORE_X, alike, nothing, MORE_THERE[0])
        expected += questions(x[i], HARD[i], ~everything, ~everything, HARD_THERE[i])
    options = dict(ids_BK=IDS, duplicates=duplicates, smoothing=smoothing, **LABELLED)
    options |= dict(hard_y_BKE=HARD, hard_present_BK=HARD_THERE)
    check(
        functools.partial(contrastive.sigmoid, **options),
        expected / B,
        x,
        y,
        scale,
        bias,
        implementation="ring",
    )


@pytest.mark.parametrize("loss", [contrastive.infonce, lambda *a, **k: contrastive.sigmoid(*a, 0.0, **k)])
def test_further_embeddings_none_of_which_is_there_change_nothing(loss):
    x, y = unit_rows(0, 8, E), unit_rows(1, 8, E)
    nothing = Further(np.zeros((16, E), np.float32), present=np.zeros(16, bool))
    options = dict(more_x=nothing, more_y=nothing)
    options |= dict(hard_y_BKE=HARD[:8], hard_present_BK=np.zeros((8, 3), bool))
    plain = jax.value_and_grad(loss, argnums=(0, 1, 2))(x, y, 5.0)
    found = jax.value_and_grad(functools.partial(loss, **options), argnums=(0, 1, 2))(x, y, 5.0)
    assert_close(found, plain, rtol=1e-7)


@pytest.mark.parametrize("present", [None, PRESENT], ids=["all", "present"])
def test_distillation_is_the_cross_entropy_of_the_teachers_softmax_and_streams(present, many_small_tiles):
    x, y = unit_rows(0, B, E), unit_rows(1, B, E)
    teacher = unit_rows(8, B, 20), unit_rows(9, B, 20), 15.0
    there = np.ones(B, bool) if present is None else present
    expected = 0.0
    for a, b, c, d in ((x, y, *teacher[:2]), (y, x, teacher[1], teacher[0])):
        student, taught = 9.0 * np.float64(a) @ b.T, 15.0 * np.float64(c) @ d.T
        target = np.exp(taught) / np.exp(taught)[:, there].sum(axis=1, keepdims=True)
        keep = np.ix_(there, there)
        expected += cross_entropy(student[keep], np.ones_like(student[keep], bool), target[keep]) / 2

    def loss(x, y, scale, **where):
        return contrastive.distill(x, y, scale, *teacher, present_B=present, **where)

    check(loss, expected, x, y, 9.0, implementation="gather")


@pytest.mark.parametrize("loss", [contrastive.infonce, lambda *a, **k: contrastive.sigmoid(*a, 0.0, **k)])
def test_identical_captions_are_not_pushed_apart_where_duplicates_are_masked(loss):
    x = unit_rows(0, 4, E)
    y = unit_rows(1, 4, E)[[0, 0, 1, 2]]
    ids = np.array([0, 0, 1, 2], np.int32)
    gradient = jax.jacobian(lambda y: loss(x, y, 5.0, ids_BK=ids, duplicates="masked"))(jnp.asarray(y))
    # Caption 0 is drawn to its own image and pushed by images 2 and 3, but does not know of image 1.
    moved = x.copy()
    moved[1] = unit_rows(3, 1, E)[0]
    other = jax.jacobian(lambda y: loss(moved, y, 5.0, ids_BK=ids, duplicates="masked"))(jnp.asarray(y))
    np.testing.assert_allclose(gradient[0], other[0], atol=1e-7)
    assert np.abs(gradient[2] - other[2]).max() > 1e-3


def test_a_row_with_nothing_to_be_told_from_has_no_loss():
    x, same = unit_rows(0, 4, E), np.zeros(4, np.int32)
    options = dict(ids_BK=same, duplicates="masked", decoupled=True)
    value, gradient = jax.value_and_grad(lambda x: contrastive.infonce(x, x, 5.0, **options))(x)
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(duplicates="masked"), "needs ids"),
        (dict(duplicates="mask", ids_BK=np.zeros(4)), "duplicates='mask' is none of"),
        (dict(ids_BK=np.zeros(3), duplicates="masked"), "4 pairs need as many ids, got 3"),
        (dict(direction="x"), "direction='x' is none of"),
        (dict(hard_y_BKE=np.zeros((4, 2, 3))), "hard negatives of"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    x = unit_rows(0, 4, E)
    with pytest.raises(ValueError, match=message):
        contrastive.infonce(x, x, 1.0, **options)
