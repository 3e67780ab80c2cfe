"""Summarize CSV files: rows, columns, and for each column its type, empty cells and range.

Usage: python3 csv_summary.py FILE...
"""

import csv
import statistics
import sys
from collections import Counter


def read_rows(path):
    """Return the rows of a file, whose columns are separated by commas, semicolons, tabs or bars."""
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            with open(path, newline="", encoding=encoding) as file:
                text = file.read()
            break
        except UnicodeDecodeError:
            continue
    first_line = text.partition("\n")[0]
    separator = max(",;\t|", key=first_line.count)
    return [row for row in csv.reader(text.splitlines(keepends=True), delimiter=separator) if row]


def read_number(cell):
    """Return the number in a cell, or None."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def tell(number):
    """Return a number as short text."""
    return f"{number:.4f}".rstrip("0").rstrip(".")


def describe(cells):
    """Return a sentence about the cells of a column."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    empty = len(cells) - len(filled)
    numbers = [read_number(cell) for cell in filled]
    if not filled:
        words = "no values"
    elif None not in numbers:
        words = (
            f"numbers from {tell(min(numbers))} to {tell(max(numbers))}, mean {tell(statistics.fmean(numbers))}, "
            f"median {tell(statistics.median(numbers))}, sum {tell(sum(numbers))}"
        )
    else:
        common = ", ".join(f"{value[:40]} ({count})" for value, count in Counter(filled).most_common(3))
        words = f"text, {len(set(filled))} different values, most frequent: {common}"
    return f"{words}; {empty} empty"


def main(paths):
    for path in paths:
        rows = read_rows(path)
        if not rows:
            print(f"{path}: the file is empty")
            continue
        header, body = rows[0], rows[1:]
        uneven = sum(len(row) != len(header) for row in body)
        print(f"{path}: {len(body)} rows, {len(header)} columns (the first line is taken as the header)")
        for index, name in enumerate(header):
            cells = [row[index] if index < len(row) else "" for row in body]
            print(f"  {name.strip() or '(no name)'}: {describe(cells)}")
        if uneven:
            print(f"  {uneven} rows do not have {len(header)} cells")


if __name__ == "__main__":
    main(sys.argv[1:])
