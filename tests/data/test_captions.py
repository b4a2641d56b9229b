"""Which caption is shown: shares and forms follow the stated probabilities."""

import collections
import math

import numpy as np
import pytest

from mmjax.data.captions import AnyCaption, FirstCaption, NameAndKeywords

TEXTS = ("apple", "fruit", "food", "red", "sweet", "tree")
DRAWS = 10_000


def draws(chooser, texts=TEXTS, seed=0):
    rng = np.random.default_rng(seed)
    return [chooser(texts, rng) for _ in range(DRAWS)]


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
    with pytest.raises(ValueError, match="no text"):
        chooser((), np.random.default_rng(0))


@pytest.mark.parametrize("fields", [{"name_only": 1.5}, {"name_only": -0.1}, {"most_keywords": 0}])
def test_impossible_choosers_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        NameAndKeywords(**fields)
