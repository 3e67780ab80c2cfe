"""The progress of the engine's installation: what is measured with pip and with uv, the estimate, and the shared file."""

import pytest

from lib import engine_progress, processes
from lib.engine_progress import Progress, Watch, read_progress

PIP_LOG = """Collecting aiohttp==3.14.5 (from -r packages.txt (line 5))
  Downloading aiohttp-3.14.5-cp313-cp313-manylinux_2_28_x86_64.whl (31.5 MB)
Collecting alembic==1.20.1 (from -r packages.txt (line 8))
  Downloading alembic-1.20.1-py3-none-any.whl (500.0 kB)
"""
UV_LOG = """Resolved 4 packages in 2.63s
Downloading litellm (37.0MiB)
Downloading botocore (15.8MiB)
 Downloaded botocore
"""


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(engine_progress, "time", clock)
    monkeypatch.setattr(engine_progress.os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    return clock


@pytest.fixture
def watch(tmp_path, clock, monkeypatch):
    """A watch of the installation of four packages, and the reports that it made in ``watch.reports``."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache" / "archive-v0" / "earlier").mkdir(parents=True)
    reports: list[Progress] = []
    with processes.acquire_lock(tmp_path / "engine.lock") as lock:
        watch = Watch(tmp_path / "engine", tmp_path / "engine.log", 4, reports.append, lock)
        watch.reports = reports
        yield watch


def report(watch, clock, *, after: float = 2) -> Progress:
    clock.now += after
    watch.report()
    assert read_progress(watch.folder) == watch.reports[-1]
    return watch.reports[-1]


def create_packages(watch, *names: str, compiled: bool) -> None:
    packages = watch.folder / "lib/python3.13/site-packages"
    for name in names:
        (packages / f"{name}-1.dist-info").mkdir(parents=True)
        (packages / f"{name}.py").write_text("x = 1\n" * 1_000)
        if compiled:
            (packages / "__pycache__").mkdir(exist_ok=True)
            (packages / "__pycache__" / f"{name}.cpython-313.pyc").write_text("x")


def test_download_by_pip_is_read_from_its_log(watch, clock):
    watch.log.write_text(PIP_LOG)

    progress = report(watch, clock, after=10)

    assert (progress.phase, progress.done, progress.total) == ("fetching", 2, 4)
    assert (progress.megabytes, progress.seconds) == (32, 10)
    assert str(progress).startswith("2 of 4 packages downloaded, about ")


def test_download_by_uv_is_counted_in_its_cache_without_earlier_packages(watch, clock):
    watch.log.write_text(UV_LOG)
    archives = watch.uv_cache / "archive-v0"
    for name in ("one", "two", "three"):
        (archives / name).mkdir()
    (watch.uv_cache / ".tmpXY").mkdir()
    (watch.uv_cache / ".tmpXY" / "part").write_bytes(b"x" * 3_000_000)

    progress = report(watch, clock)

    assert (progress.phase, progress.done, progress.megabytes) == ("fetching", 3, 3)


def test_packages_of_pip_and_compiled_files_of_uv_are_counted_in_the_environment(watch, clock):
    watch.log.write_text(PIP_LOG + "Installing collected packages: aiohttp\n")
    create_packages(watch, "one", "two", "three", compiled=True)

    assert report(watch, clock).phase == "installing"

    watch.log.write_text(UV_LOG)
    create_packages(watch, "four", compiled=False)

    progress = report(watch, clock)

    assert str(progress).startswith("3 of 4 files compiled")


def test_seconds_left_never_grow_and_are_omitted_when_the_installation_takes_much_longer(
    watch, clock
):
    watch.log.write_text("Resolved 4 packages in 2.63s\n")
    assert report(watch, clock).seconds_left is None, "nothing is known about the connection yet"
    shown = []
    for number in range(4):
        (watch.uv_cache / "archive-v0" / f"a{number}").mkdir()
        (watch.uv_cache / f".tmp{number}").mkdir()
        with (watch.uv_cache / f".tmp{number}" / "x").open("w") as file:
            file.truncate(120_000_000)
        shown.append(report(watch, clock, after=1 + number))
    shown += [report(watch, clock, after=30) for _ in range(10)]

    left = [progress.seconds_left for progress in shown if progress.seconds_left is not None]
    assert left == sorted(left, reverse=True)
    assert min(left) >= 1
    assert shown[-1].seconds_left is None
    assert str(shown[-1]) == "4 of 4 packages downloaded"
    percents = [progress.percent for progress in shown if progress.percent is not None]
    assert percents == sorted(percents)


def test_two_reports_within_a_second_measure_once(watch, clock):
    report(watch, clock)
    clock.now += 0.5
    watch.report()

    assert len(watch.reports) == 1


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress("python"), "preparing Python"),
        (Progress("installing", 120, 194, seconds_left=15), "120 of 194 packages, about 15 s left"),
        (Progress("compiling", 7_200, 14_082), "7,200 of 14,082 files compiled"),
        (
            Progress("fetching", 1, 194, seconds_left=130),
            "1 of 194 packages downloaded, about 2 min left",
        ),
    ],
)
def test_progress_in_words(progress, words):
    assert str(progress) == words


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"progress": 1}',
        '{"progress": {"phase": "dancing"}}',
        '{"progress": {"phase": "python", "done": "many"}}',
        '{"progress": {"phase": "python", "seconds_left": "soon"}}',
        '{"progress": {"phase": "python", "of_a_later_release": 1}}',
    ],
)
def test_unreadable_file_is_no_progress(tmp_path, content):
    (tmp_path / "engine.progress.json").write_text(content)

    assert read_progress(tmp_path / "engine") is None


def test_progress_is_written_although_the_folder_is_missing(tmp_path):
    engine_progress.write_progress(tmp_path / "missing" / "engine", Progress("python"))

    assert read_progress(tmp_path / "missing" / "engine") is None
