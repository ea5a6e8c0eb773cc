"""Which small files are fetched before a program opens them."""

from collections.abc import Iterable, Sequence

from riafs.content.directory_walk import SMALL, DirectoryWalk


class Fetched:
    """Notes what is fetched ahead, in a directory of `count` files of `size` bytes."""

    def __init__(self, count: int, size: int = 1000) -> None:
        self.paths: list[bytes] = []
        self.count = count
        self.size = size
        self.walk = DirectoryWalk(self)

    def fetch_ahead(self, paths: Sequence[bytes]) -> None:
        self.paths += paths

    def following(self, start: int, end: int) -> Iterable[tuple[bytes, int]]:
        for position in range(start, min(end, self.count)):
            yield b"%d" % position, self.size

    def open(self, *positions: int, directory: str = "d") -> None:
        for position in positions:
            self.walk.opened(directory, position, self.following)


def test_one_file_fetches_no_other() -> None:
    fetched = Fetched(100)
    fetched.open(5)
    assert fetched.paths == []


def test_a_walk_fetches_each_file_once_and_in_time() -> None:
    fetched = Fetched(1000)
    for position in range(1000):
        fetched.open(position)
        if position > 1:
            assert position == 999 or b"%d" % (position + 1) in fetched.paths
    assert fetched.paths == [b"%d" % position for position in range(2, 1000)]


def test_a_walk_may_leave_files_out() -> None:
    fetched = Fetched(100)
    fetched.open(0, 3, 4, 9)
    assert b"10" in fetched.paths


def test_random_and_reverse_order_fetch_nothing() -> None:
    fetched = Fetched(1000)
    fetched.open(*range(900, 0, -1))
    fetched.open(500, 17, 803, 251, 640, 99)
    assert fetched.paths == []


def test_the_next_directory_is_walked_at_once() -> None:
    fetched = Fetched(50)
    fetched.open(0, 1, 2)
    fetched.paths.clear()
    fetched.open(0, directory="next")
    assert fetched.paths[0] == b"1"


def test_the_next_directory_is_fetched_when_it_is_listed() -> None:
    fetched = Fetched(50)
    fetched.open(*range(10))
    fetched.paths.clear()
    fetched.walk.listed("next", fetched.following)
    assert fetched.paths == [b"%d" % position for position in range(50)]
    fetched.open(*range(50), directory="next")
    assert len(fetched.paths) == 50


def test_who_only_lists_directories_fetches_at_most_one() -> None:
    fetched = Fetched(50)
    fetched.walk.listed("first", fetched.following)
    assert fetched.paths == []
    fetched.open(*range(10))
    fetched.paths.clear()
    for number in range(20):
        fetched.walk.listed(f"next{number}", fetched.following)
    assert len(fetched.paths) == 50


def test_who_goes_elsewhere_starts_anew() -> None:
    fetched = Fetched(1000)
    fetched.open(0, 1, 2, 900)
    fetched.paths.clear()
    fetched.open(300)
    assert fetched.paths == []


def test_the_same_file_twice_changes_nothing() -> None:
    fetched = Fetched(100)
    fetched.open(0, 1)
    before = list(fetched.paths)
    fetched.open(1, 1)
    assert fetched.paths == before


def test_large_files_are_left_out_and_bytes_are_bounded() -> None:
    large = Fetched(100, SMALL + 1)
    large.open(*range(100))
    assert large.paths == []
    many = Fetched(1000, SMALL)
    many.open(*range(5))
    assert len(many.paths) * SMALL <= 3 * (8 << 20)
