"""Check whether a year is a leap year."""


def is_leap_year(year):
    """Return True for a leap year: a multiple of 4, but of 100 only if it is also a multiple of 400."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


if __name__ == "__main__":
    assert is_leap_year(2024)
    assert is_leap_year(2000)
    assert not is_leap_year(1900)
    assert not is_leap_year(2023)
    for year in (1900, 2000, 2023, 2024):
        print(year, "is a leap year" if is_leap_year(year) else "is not a leap year")
    print("All checks passed.")
