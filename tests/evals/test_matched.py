"""Matching judged with models that are made up, so that their scores are known."""

import numpy as np
import pytest

from mmjax.evals import ranking
from mmjax.evals.matched import Matched, reordered

# Picture i shows the number i; texts 0..5 belong to them, and the picture 6 to text 0, too.
IDS = [0, 1, 2, 3, 4, 5, 0]
Z = {
    "image": np.eye(6, dtype=np.float32)[IDS],
    # Of each text the embedding is that of the next thing, and a little of its own.
    "text": np.eye(6, dtype=np.float32)[[1, 2, 3, 4, 5, 0]] * 0.8 + np.eye(6, dtype=np.float32) * 0.6,
}


class Numbered:
    names, licence = {}, ""

    def prepare(self):
        pass

    def __len__(self):
        return len(IDS)

    def __getitem__(self, index):
        image_HWC = np.full((2, 2, 3), IDS[index], np.uint8)
        return {"image": image_HWC, "text": (f"{IDS[index]}", "keyword"), "id": IDS[index]}


def shown(image_HWC):
    return int(image_HWC[0, 0, 0])


def model(judge):
    def classes(examples):
        yes_P = [judge(shown(one["image"]), int(one["text"][0])) for one in examples[:]]
        return np.array([[1 - yes, yes] for yes in yes_P], np.float32)

    return {
        "image": lambda items: np.array([np.eye(6, dtype=np.float32)[shown(item)] for item in items[:]]),
        "text": lambda items: np.array([Z["text"][int(item)] for item in items[:]]),
        "classes/match": classes,
    }


def report(judge, **fields):
    return Matched(name="numbers", source=Numbered(), **fields)(model(judge)).metrics


def test_a_model_that_knows_puts_right_what_embeddings_have_second():
    found = report(lambda image, text: 0.9 if image == text else 0.1, top=2)
    assert found["itm_acc"] == 1.0 and found["itm_acc_chance"] == 0.5
    assert found["itm_i2t_r1_before"] == 0.0 and found["itm_i2t_r1"] == 1.0
    assert found["itm_t2i_r1"] > found["itm_t2i_r1_before"]


def test_a_model_that_says_the_same_of_all_pairs_changes_no_order_and_guesses():
    for probability in (0.2, 0.8):
        found = report(lambda image, text, p=probability: p)
        assert found["itm_acc"] == 0.5
        for way in ("i2t", "t2i"):
            assert found[f"itm_{way}_r1"] == found[f"itm_{way}_r1_before"]


def test_a_wrong_pair_is_the_most_similar_text_of_another_id():
    asked = []

    def judge(image, text):
        asked.append((image, text))
        return 0.5

    report(judge, top=2)
    # The text of the thing before: it looks most like this picture.
    assert asked[: 2 * len(IDS)] == [(i, i) for i in IDS] + [(i, (i - 1) % 6) for i in IDS]


def test_candidates_are_in_the_order_of_their_scores_and_ties_stay():
    assert reordered(np.array([[3, 1, 0]]), np.array([[0.1, 0.7, 0.1]])).tolist() == [[1, 3, 0]]


COSINES = np.eye(6) @ Z["text"].T


def judged_by_sorting(score, top):
    """Recalls from picture to text after the first `top` texts of each are sorted once more."""
    places = []
    for own in IDS:
        order = sorted(range(6), key=lambda j, own=own: (-COSINES[own, j], j))
        first = sorted(order[:top], key=lambda j, own=own: -score(own, j))
        places.append(1 + (first + order[top:]).index(own))
    return {f"itm_i2t_r{k}": np.mean([place <= k for place in places]) for k in (1, 5)}


@pytest.mark.parametrize("top", [2, 3, 6])
def test_without_a_scale_probabilities_alone_rank_whatever_the_size_of_a_block(top, monkeypatch):
    def judge(image, text):
        return (7 * image + 3 * text) % 5 / 5

    expected = judged_by_sorting(judge, top)
    found = report(judge, top=top, scale=0.0)
    assert {name: found[name] for name in expected} == expected
    monkeypatch.setattr(ranking, "_BLOCK", 1)
    assert report(judge, top=top, scale=0.0) == found
    assert set(found) == set(Matched(name="x", source=Numbered(), top=top).finds)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_judge_of_pairs_drawn_by_cosines_ranks_by_how_probable_a_text_is(seed):
    """It tells true from drawn ones, by p / (p + q): with the cosines, which made q, its odds give p."""
    p = np.random.default_rng(seed).dirichlet(np.ones(6), size=6) + 1e-3
    q = np.exp(14 * COSINES)
    q /= q.sum(axis=1, keepdims=True)
    expected = judged_by_sorting(lambda image, text: p[image, text], top=6)
    found = report(lambda image, text: p[image, text] / (p[image, text] + q[image, text]), top=6)
    assert {name: found[name] for name in expected} == expected


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="top=1 candidates leave nothing"):
        Matched(name="x", source=Numbered(), top=1)
    with pytest.raises(ValueError, match="scale=-1.0 must be 0 or more"):
        Matched(name="x", source=Numbered(), scale=-1.0)
    assert Matched(name="x", source=Numbered(), task="m").needs == ("image", "text", "classes/m")
