"""The decision records and the links of the documents."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDS = sorted((ROOT / "docs" / "adr").glob("*.md"))
SECTIONS = ("## Context", "## Decision", "## Consequences")
STATUSES = ("proposed", "accepted", "superseded")
REFERENCE = re.compile(r"\bADR[ s]*(\d+)|adr/(\d{4})")


def test_records_are_numbered_in_sequence():
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_record_has_the_common_format(path):
    lines = path.read_text().splitlines()

    assert re.fullmatch(rf"# {int(path.name[:4])}\. \S.*", lines[0])
    status = re.fullmatch(r"- Status: (\w+).*", lines[2])
    assert status is not None
    assert status[1] in STATUSES
    assert re.fullmatch(r"- Date: .*20\d\d.*", lines[3])
    assert [line for line in lines if line in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name
)
def test_relative_links_of_document_lead_to_files(path):
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text())
    relative = [target for target in targets if "://" not in target]

    assert not [target for target in relative if not (path.parent / target).exists()]


def test_every_reference_to_a_decision_leads_to_a_record():
    files = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.proto", ".env.example"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    numbers = {int(path.name[:4]) for path in RECORDS}
    wrong = [
        f"{name}: {match[0]}"
        for name in files
        for match in REFERENCE.finditer((ROOT / name).read_text())
        if int(match[1] or match[2]) not in numbers
    ]

    assert not wrong
