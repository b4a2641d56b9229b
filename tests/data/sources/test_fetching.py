"""Fetching an archive with a registry's client, here a script in its place."""

import os
import sys

import pytest

from mmjax.data.sources import fetching

PARTS = dict(what="round icons", client="a client", made="icons-*.tgz")


def client(code):
    return lambda: [sys.executable, "-c", code]


def test_what_the_client_makes_is_kept_under_its_final_name(tmp_path):
    path = tmp_path / "downloads" / "icons.tgz"
    code = "for name in ('notes.txt', 'icons-1.2.tgz'): open(name, 'w').write(name)"
    assert fetching.fetch(path, client(code), **PARTS) == path
    assert path.read_text() == "icons-1.2.tgz" and os.listdir(path.parent) == ["icons.tgz"]


def test_what_is_there_is_not_fetched(tmp_path):
    (tmp_path / "icons.tgz").write_text("here")

    def never():
        raise AssertionError

    assert fetching.fetch(tmp_path / "icons.tgz", never, **PARTS).read_text() == "here"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('W: a warning\\nE: no such package')", r"\(E: no such package\)"),
        ("import sys; sys.exit(3)", r"\(exit 3\)"),
        ("open('other.tgz', 'w')", r"\(exit 0\)"),
    ],
    ids=["an error", "silence", "another file"],
)
def test_what_cannot_be_fetched_is_named_with_the_reason_and_the_remedy(tmp_path, code, said):
    path = tmp_path / "icons.tgz"
    with pytest.raises(ValueError, match=f"round icons could not .* a client {said}; .*put icons.tgz into"):
        fetching.fetch(path, client(code), **PARTS)
    assert os.listdir(tmp_path) == []


def test_a_client_that_takes_long_does_so_with_a_word(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fetching, "NOTICE_S", 0.05)
    with caplog.at_level("INFO", logger="mmjax"):
        code = "import time; time.sleep(0.3); open('icons-1.tgz', 'w')"
        fetching.fetch(tmp_path / "icons.tgz", client(code), **PARTS)
    assert "still fetching round icons" in caplog.text


def test_the_data_directory_is_the_field_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("MMJAX_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert fetching.data_root(None) == tmp_path / "cache" / "mmjax" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetching.data_root(None) == tmp_path / ".cache" / "mmjax" / "data"
    monkeypatch.setenv("MMJAX_DATA_DIR", str(tmp_path / "disk"))
    assert fetching.data_root(None) == tmp_path / "disk"
    assert fetching.data_root(str(tmp_path / "here")) == tmp_path / "here"
