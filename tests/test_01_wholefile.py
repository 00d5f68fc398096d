"""Files that are there whole or not at all: what stops the writing costs neither the old file nor a name."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from sartransfer.errors import OutputError
from sartransfer.wholefile import replacing


class WritingError(Exception):
    """What a writer of another project raises."""


def test_a_file_is_replaced_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "a.txt"
    for durable in (False, True):
        for text in ("first", "second"):
            before = path.read_text() if path.exists() else None
            with replacing(path, durable=durable) as temporary:
                temporary.write_text(text)
                assert (path.read_text() if path.exists() else None) == before
                assert temporary.parent == tmp_path
            assert path.read_text() == text
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208


@pytest.mark.parametrize("kind", [OSError, WritingError, KeyboardInterrupt, ValueError])
def test_what_stops_the_writing_leaves_the_old_file_alone(tmp_path, kind):
    path = tmp_path / "a.txt"
    path.write_text("old")
    error = OSError(28, "No space left on device") if kind is OSError else kind("the writer's words.")
    with pytest.raises(BaseException) as caught, replacing(path, WritingError) as temporary:  # noqa: PT011, PT012
        temporary.write_text("ne")
        raise error
    if kind in (OSError, WritingError):
        reason = "No space left on device" if kind is OSError else "the writer's words"
        expected = f"cannot write {path}: {reason}. Free some space, or choose another place."
        assert (type(caught.value), str(caught.value)) == (OutputError, expected)
    else:
        assert caught.value is error
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "no" / "a.txt", tmp_path / "file" / "a.txt", tmp_path):
        with pytest.raises(OutputError, match="cannot write"), replacing(path) as temporary:
            temporary.write_text("x")
    with pytest.raises(OutputError, match="cannot write"), replacing(tmp_path / "none"):
        pass  # nothing was written
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_writers_at_the_same_time_leave_one_of_their_files_whole(tmp_path):
    path = tmp_path / "a.txt"

    def write(number):
        with replacing(path) as temporary, temporary.open("w") as file:
            for _ in range(50):
                file.write(f"{number}" * 20 + "\n")
                file.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(8)))
    assert path.read_text() in {(f"{n}" * 20 + "\n") * 50 for n in range(8)}
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
