"""The tokenizer of a run: made once, read ever after, and what it cuts said at every start."""

import dataclasses
import logging

import numpy as np
import pytest

from mmjax import vocabulary
from mmjax.data.geometry import Resize
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers.sentencepiece import SentencePiece
from mmjax.data.tokenizers.utf8 import Bytes


@dataclasses.dataclass(frozen=True)
class Words:
    """Example i says `i % 10` times "x", and remembers that it was asked."""

    size: int
    asked: list = dataclasses.field(default_factory=list)
    licence: str = ""
    names = {}

    def prepare(self):
        pass

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.asked.append(index)
        return {"image": np.zeros((2, 2, 3), np.uint8), "text": ("x" * (index % 10) or " ",), "id": index}


def start(directory, config, source):
    data = Data(train=source, batch_size=8, geometry=(Resize(size=2),))
    return vocabulary.of_run(directory, config, data, seed=0)


@pytest.mark.parametrize("truncate", ["end", "start"])
def test_every_start_says_which_share_of_the_captions_is_cut(tmp_path, caplog, truncate):
    # With its EOS a row of 7 has room for 6 bytes: 7, 8 and 9 of ten lengths are too many.
    config = Bytes(length=7, truncate=truncate)
    said = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "mmjax"):
            start(tmp_path, config, Words(50))
        said.append(caplog.messages)
    cut = f"tokenizer: 30.0 % of 50 training captions lose their {truncate} to length=7"
    assert said[0][0] == "making the tokenizer ..." and said[0][-1] == cut
    assert said[1] == [cut]


def test_at_most_two_thousand_captions_are_counted_all_over_the_data(tmp_path, caplog):
    source = Words(50_001)
    with caplog.at_level(logging.INFO, "mmjax"):
        start(tmp_path, Bytes(length=9), source)
    assert "of 2000 training captions" in caplog.text
    assert len(source.asked) == 2_000 and max(np.diff(source.asked)) <= 26
    assert source.asked[0] == 0 and source.asked[-1] >= 50_001 - 26


def test_what_was_learned_is_kept_whatever_the_data_say_later(tmp_path):
    config = SentencePiece(vocab=300, length=7)
    made = start(tmp_path, config, Words(50))
    again = start(tmp_path, config, Words(13))
    assert again.model == made.model == (tmp_path / "tokenizer.model").read_bytes()


def test_a_tokenizer_that_cannot_be_made_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="none that has a letter"):
        start(tmp_path, SentencePiece(vocab=300), Words(1))
    assert not list(tmp_path.iterdir())
