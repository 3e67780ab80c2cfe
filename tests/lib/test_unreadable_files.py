"""Files that cannot be opened for a moment: nobody may conclude from it that a sandbox ended."""

import errno
import fcntl
import os
import resource
from contextlib import contextmanager

import pytest

from lib.json_files import read_json, write_json
from lib.processes import is_locked


@contextmanager
def no_descriptors_left():
    """Let this process open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_lock_that_cannot_be_examined_is_an_error(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_locked(path)
        with no_descriptors_left(), pytest.raises(OSError) as caught:
            is_locked(path)

    assert caught.value.errno == errno.EMFILE
    assert not is_locked(path)
    assert not is_locked(tmp_path / "missing")


def test_json_that_cannot_be_read_is_an_error(tmp_path):
    write_json(tmp_path / "file", {"a": 1})

    with no_descriptors_left(), pytest.raises(OSError) as caught:
        read_json(tmp_path / "file")

    assert caught.value.errno == errno.EMFILE
    assert read_json(tmp_path / "file") == {"a": 1}
    assert read_json(tmp_path / "missing") == {}
