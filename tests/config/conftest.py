"""Config files for the tests of configs."""

import pytest


@pytest.fixture
def write(tmp_path):
    """Writes a config file that sees the classes above, and returns its path."""

    def write_file(body, name="run.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"from toyrun import *\n{body}\n")
        return str(path)

    return write_file


@pytest.fixture
def plain(write):
    return write("def get_config(): return Run()")
