"""Which caption is shown: shares and forms follow the stated probabilities."""

import collections
import math

import numpy as np
import pytest

from mmjax.data import BadExample
from mmjax.data.captions import PHOTO, AnyCaption, FirstCaption, NameAndKeywords, Prompted, WeightedCaption

TEXTS = ("apple", "fruit", "food", "red", "sweet", "tree")
DRAWS = 10_000


def draws(chooser, texts=TEXTS, seed=0, **more):
    rng = np.random.default_rng(seed)
    return [chooser({"text": texts, "id": 0, **more}, rng) for _ in range(DRAWS)]


def assert_share(count, prob):
    sigma = math.sqrt(DRAWS * prob * (1 - prob))
    assert abs(count - DRAWS * prob) <= 4 * sigma


def test_first_caption_is_the_first():
    assert set(draws(FirstCaption())) == {"apple"}


def test_any_caption_is_uniform():
    counts = collections.Counter(draws(AnyCaption()))
    assert set(counts) == set(TEXTS)
    for text in TEXTS:
        assert_share(counts[text], 1 / len(TEXTS))


def test_the_name_stands_alone_as_often_as_stated_and_is_always_first():
    captions = [caption.split(", ") for caption in draws(NameAndKeywords(name_only=0.4, most_keywords=4))]
    assert all(caption[0] == "apple" for caption in captions)
    lengths = collections.Counter(len(caption) - 1 for caption in captions)
    assert_share(lengths[0], 0.4)
    for count in (1, 2, 3, 4):
        assert_share(lengths[count], 0.6 / 4)


def test_every_keyword_is_equally_likely_in_every_place():
    captions = [caption.split(", ") for caption in draws(NameAndKeywords(name_only=0.0, most_keywords=5))]
    for place in (1, 2):
        shown = [caption[place] for caption in captions if len(caption) > 2]
        for keyword in TEXTS[1:]:
            share = shown.count(keyword) / len(shown)
            assert abs(share - 1 / 5) < 4 * math.sqrt(0.2 * 0.8 / len(shown))


def test_nothing_is_shown_twice():
    repeated = ("apple", "fruit", "apple", "fruit", "food")
    for caption in set(draws(NameAndKeywords(name_only=0.0), repeated)):
        words = caption.split(", ")
        assert len(words) == len(set(words)) <= 3


def test_a_name_without_keywords_is_shown_as_it_is():
    assert set(draws(NameAndKeywords(name_only=0.0), ("apple",))) == {"apple"}


@pytest.mark.parametrize("chooser", [FirstCaption(), AnyCaption(), NameAndKeywords()], ids=repr)
def test_captions_are_plain_strings_and_depend_on_the_generator_alone(chooser):
    assert draws(chooser, seed=1) == draws(chooser, seed=1)
    assert type(draws(chooser)[0]) is str


@pytest.mark.parametrize("chooser", [FirstCaption(), AnyCaption(), NameAndKeywords()], ids=repr)
def test_an_example_without_text_is_refused(chooser):
    with pytest.raises(BadExample, match="has no caption"):
        chooser({"text": (), "id": 0}, np.random.default_rng(0))


@pytest.mark.parametrize("fields", [{"name_only": 1.5}, {"name_only": -0.1}, {"most_keywords": 0}])
def test_impossible_choosers_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        NameAndKeywords(**fields)


KINDS = ("caption.en", "caption.en", "caption.de", "alt", "alt", "alt")


def test_kinds_are_drawn_by_weight_and_texts_of_a_kind_evenly():
    weights = {"caption.en": 3.0, "*.de": 1.0, "alt": 0.0}
    counts = collections.Counter(draws(WeightedCaption(weights=weights), kinds=KINDS))
    assert set(counts) == {"apple", "fruit", "food"}
    for text, share in (("apple", 3 / 8), ("fruit", 3 / 8), ("food", 1 / 4)):
        assert_share(counts[text], share)


def test_weights_count_among_the_kinds_that_an_example_has():
    chooser = WeightedCaption(weights={"caption.en": 3.0, "caption.de": 1.0})
    assert set(draws(chooser, texts=("Apfel",), kinds=("caption.de",))) == {"Apfel"}


def test_the_first_pattern_that_fits_counts():
    chooser = WeightedCaption(weights={"caption.de": 0.0, "caption.*": 1.0})
    assert set(draws(chooser, kinds=KINDS)) == {"apple", "fruit"}


@pytest.mark.parametrize("kinds", [KINDS, ()], ids=["others", "none"])
def test_an_example_without_a_weighted_kind_is_a_bad_one(kinds):
    chooser = WeightedCaption(weights={"title": 1.0})
    with pytest.raises(BadExample, match="none is among title") as error:
        chooser({"text": TEXTS, "kinds": kinds, "id": 0}, np.random.default_rng(0))
    assert error.value.reason == "no_caption"


def test_a_prompt_is_drawn_evenly_for_the_text_that_is_chosen():
    counts = collections.Counter(draws(Prompted(templates=PHOTO, of=FirstCaption())))
    assert set(counts) == {template.replace("{}", "apple") for template in PHOTO}
    for count in counts.values():
        assert_share(count, 1 / len(PHOTO))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prompted(templates=()), "leaves nothing to show"),
        (lambda: Prompted(templates=("a photo",)), "no place for the class's name"),
        (lambda: WeightedCaption(weights={}), "weights={}"),
        (lambda: WeightedCaption(weights={"a": 0.0}), "weights={'a': 0.0}"),
        (lambda: WeightedCaption(weights={"a": 2.0, "b": -1.0}), "must be 0 or more"),
    ],
)
def test_impossible_weights_and_prompts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
