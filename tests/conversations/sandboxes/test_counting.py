"""The counts of a sandbox's disk and memory see what an agent hides."""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conversations.sandboxes.bubblewrap.limits import (
    LEAST_FILE_BYTES,
    count_bytes,
    read_resident_bytes,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
MEGABYTE = 1_000_000


def test_files_below_a_path_that_is_too_long_are_counted(tmp_path: Path) -> None:
    script = "import os\nfor i in range(40): os.mkdir('d' * 200); os.chdir('d' * 200)\n"
    script += "open('big', 'wb').write(b'z' * 1_000_000)"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)

    assert count_bytes(tmp_path, set()) > MEGABYTE
    subprocess.run(["rm", "-rf", str(tmp_path / ("d" * 200))], check=True)


def test_files_in_a_closed_folder_are_counted_and_its_mode_stays(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 12_345, 12_345)
    child = os.fork()
    if child == 0:
        # The modules are imported already and the path is relative, so the ordinary user needs no access to either.
        os.chdir(tmp_path)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(12_345, 12_345, 12_345)
            os.setresuid(12_345, 12_345, 12_345)
            # Otherwise /proc/self/fd belongs to root after the change of the user.
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
        closed = Path("closed")
        closed.mkdir()
        (closed / "big").write_bytes(b"z" * MEGABYTE)
        closed.chmod(0)
        is_counted = count_bytes(Path(), set()) > MEGABYTE
        os._exit(0 if is_counted and closed.stat().st_mode & 0o777 == 0 else 1)

    assert os.waitpid(child, 0)[1] == 0
    (tmp_path / "closed").chmod(0o700)


def test_a_closed_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "big").write_bytes(b"z" * MEGABYTE)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")

    assert count_bytes(tmp_path / "inside", set()) < MEGABYTE


def test_empty_files_count(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()

    assert count_bytes(tmp_path, set()) >= 100 * LEAST_FILE_BYTES


def test_page_tables_count_as_memory() -> None:
    before = read_resident_bytes(os.getpid())
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    with mmap.mmap(-1, 1 << 34, flags=flags, prot=mmap.PROT_READ) as area:
        area.madvise(mmap.MADV_NOHUGEPAGE)
        for position in range(0, 1 << 34, 1 << 21):  # one page of each table
            assert area[position] == 0

        assert read_resident_bytes(os.getpid()) - before > 20 * MEGABYTE
