"""Linear probe, few-shot probe and nearest neighbours, on embeddings that are known."""

import logging

import numpy as np
import pytest
from points import Table, table
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from mmjax.evals import nearest
from mmjax.evals.few_shot import FewShot
from mmjax.evals.linear_probe import LinearProbe
from mmjax.evals.nearest import KNearest


@pytest.fixture(scope="module")
def data():
    return table(1, 700, noise=1.5)


@pytest.fixture(scope="module")
def many():
    """Rows enough that 0.002 is several of them."""
    return table(1, 3_400, noise=1.5)


def parts(data):
    return dict(source=data.source(500, 700), train=data.source(0, 400))


def run(evaluator, data):
    evaluator.prepare()
    report = evaluator(data.embed)
    assert set(report.metrics) == set(evaluator.finds)
    return report


def test_the_linear_probe_is_scikit_learns_with_the_regulariser_that_validates_best(many):
    l2 = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
    split = dict(train=many.source(0, 400), val=many.source(400, 1_400), source=many.source(1_400, 3_400))
    report = run(LinearProbe(name="x", l2=l2, **split), many)
    ends = {"train": (0, 400), "val": (400, 1_400), "both": (0, 1_400), "test": (1_400, 3_400)}
    rows = {name: slice(*each) for name, each in ends.items()}

    def theirs(fitted, judged, strength):
        z_NE, label_N = many.z_NE[rows[fitted]], many.label_N[rows[fitted]]
        model = LogisticRegression(C=1 / (strength * len(z_NE)), max_iter=5_000, tol=1e-7).fit(z_NE, label_N)
        return model.score(many.z_NE[rows[judged]], many.label_N[rows[judged]])

    of_val = [theirs("train", "val", strength) for strength in l2]
    sweep = report.pictures[-1]
    np.testing.assert_allclose(sweep.y["validation"][::-1], of_val, atol=0.002)
    chosen = report.metrics["lp_l2"]
    assert of_val[l2.index(chosen)] >= max(of_val) - 0.002
    assert abs(report.metrics["lp_acc1"] - theirs("both", "test", chosen)) <= 0.002
    assert report.metrics["lp_val_acc1"] == max(sweep.y["validation"])


def test_a_probe_of_embeddings_without_information_does_no_better_than_chance():
    nothing = Table(np.full((700, 16), 0.25, np.float32), np.arange(700) % 5, 5)
    report = run(LinearProbe(name="x", val=nothing.source(400, 500), **parts(nothing)), nothing)
    assert report.metrics["lp_acc1"] == report.metrics["lp_acc1_chance"] == 1 / 5
    assert report.metrics["lp_ece"] < 1e-6


def test_a_best_regulariser_at_the_end_of_the_sweep_is_warned_of(data, caplog):
    with caplog.at_level(logging.WARNING, logger="mmjax"):
        run(LinearProbe(name="x", val=data.source(400, 500), l2=(10.0, 1.0), **parts(data)), data)
    assert "is the last of the sweep" in caplog.text


def test_few_shot_learns_more_from_more_and_reports_mean_and_deviation(data):
    few = FewShot(name="x", shots=(1, 4, 16), draws=4, **parts(data))
    report = run(few, data)
    found = report.metrics
    assert found["fs_1_acc1"] < found["fs_4_acc1"] < found["fs_16_acc1"]
    assert found["fs_1_acc1_chance"] == 1 / 5
    probes = [few._fitted(data.z_NE[drawn_N], data.label_N[drawn_N]) for drawn_N in few._drawn]
    accuracy_RK = few._accuracies(probes, data.z_NE[500:], data.label_N[500:])
    (curve,) = report.pictures
    np.testing.assert_allclose(curve.y["few-shot"], accuracy_RK.mean(axis=0))
    np.testing.assert_allclose(curve.spread["few-shot"], accuracy_RK.std(axis=0))
    assert found["fs_4_std"] == curve.spread["few-shot"][1]


def test_one_draw_of_few_shot_is_scikit_learns_classifier_on_those_examples(many):
    few = FewShot(
        name="x",
        shots=(2, 8),
        draws=1,
        l2=1e-2,
        train=many.source(0, 1_400),
        source=many.source(1_400, 3_400),
    )
    found = run(few, many).metrics
    for k in few.shots:
        drawn_N = few._drawn[0, : k * 5]
        assert np.bincount(many.label_N[drawn_N]).tolist() == [k] * 5
        model = LogisticRegression(C=1 / (1e-2 * len(drawn_N)), max_iter=2_000, tol=1e-6)
        model.fit(many.z_NE[drawn_N], many.label_N[drawn_N])
        theirs = model.score(many.z_NE[1_400:], many.label_N[1_400:])
        assert abs(found[f"fs_{k}_acc1"] - theirs) <= 0.002


@pytest.mark.parametrize("k", [1, 5, 400])
def test_votes_of_the_nearest_are_those_of_scikit_learn(data, monkeypatch, k):
    # Blocks of eight queries, of which 200 is a multiple and 201 would not be.
    monkeypatch.setattr(nearest, "_BLOCK", 400)
    query_NE, train_ME, label_M = data.z_NE[499:], data.z_NE[:400], data.label_N[:400]
    found_NC = nearest.votes(query_NE, train_ME, label_M, k=k, temperature=0.1, classes=5)

    def weigh(distance_NK):  # of unit vectors: squared distance 2 - 2 cosine
        return np.exp((1 - distance_NK**2 / 2) / 0.1)

    theirs = KNeighborsClassifier(k, weights=weigh, algorithm="brute").fit(train_ME, label_M)
    np.testing.assert_allclose(found_NC, theirs.predict_proba(query_NE), atol=1e-5)


def test_neighbours_are_shown_with_those_of_the_same_class_framed(data):
    report = run(KNearest(name="x", k=10, **parts(data)), data)
    gallery, matrix, _ = report.pictures
    cosine_NM = data.z_NE[500:] @ data.z_NE[:400].T
    row, query = gallery.rows[0], 500
    nearest_M = np.argsort(-cosine_NM[0], kind="stable")[:5]
    assert [match.right for match in row.matches] == [
        data.label_N[m] == data.label_N[query] for m in nearest_M
    ]
    np.testing.assert_allclose([m.score for m in row.matches], cosine_NM[0, nearest_M], rtol=1e-5)
    assert matrix.counts.sum() == 200
    assert np.trace(matrix.counts) / 200 == report.metrics["knn_acc1"]


def test_embeddings_that_are_no_numbers_do_not_stop_an_evaluation(data):
    lost = Table(np.where(np.arange(700)[:, None] % 7, data.z_NE, np.nan), data.label_N, 5)
    report = run(KNearest(name="x", k=10, **parts(lost)), lost)
    assert (
        0
        < report.metrics["knn_acc1"]
        < run(KNearest(name="x", k=10, **parts(data)), data).metrics["knn_acc1"]
    )


def test_too_few_examples_are_refused_before_anything_is_embedded(data):
    with pytest.raises(
        ValueError,
        match="2 of 5 classes have fewer than 1 examples in train; give more of 'class 3', of .* 0",
    ):
        LinearProbe(
            name="x", train=data.source(0, 3), val=data.source(3, 9), source=data.source(9, 19)
        ).prepare()
    with pytest.raises(ValueError, match="classes have fewer than 1 examples in val; give more of"):
        LinearProbe(
            name="x", train=data.source(0, 50), val=data.source(50, 52), source=data.source(60, 90)
        ).prepare()
    with pytest.raises(ValueError, match="5 of 5 classes have fewer than 16 examples in train"):
        FewShot(name="x", train=data.source(0, 50), source=data.source(50, 60)).prepare()
    with pytest.raises(ValueError, match="k=20 of 10 examples"):
        KNearest(name="x", train=data.source(0, 10), source=data.source(10, 20)).prepare()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (LinearProbe, {"l2": ()}, "l2="),
        (LinearProbe, {"l2": (1.0, 0.0)}, "l2="),
        (FewShot, {"shots": (4, 2)}, "shots="),
        (FewShot, {"shots": (0, 2)}, "shots="),
        (FewShot, {"draws": 0}, "draws=0"),
        (KNearest, {"k": 0}, "k=0"),
        (KNearest, {"temperature": 0.0}, "temperature=0.0"),
        (KNearest, {"name": "a b"}, "name='a b'"),
    ],
    ids=str,
)
def test_a_wrong_field_is_refused_when_the_config_is_built(data, kind, fields, message):
    given = dict(name="x", **parts(data)) | fields
    if kind is LinearProbe:
        given["val"] = data.source(400, 500)
    with pytest.raises(ValueError, match=message):
        kind(**given)
