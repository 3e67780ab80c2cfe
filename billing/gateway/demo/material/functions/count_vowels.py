"""Count the vowels of a text."""

VOWELS = set("aeiou")


def count_vowels(text):
    """Return how many letters of a text are a, e, i, o or u, in either case."""
    return sum(character in VOWELS for character in text.lower())


if __name__ == "__main__":
    assert count_vowels("") == 0
    assert count_vowels("Hello") == 2
    assert count_vowels("AEIOU xyz") == 5
    print("Hello, world! has", count_vowels("Hello, world!"), "vowels")
    print("All checks passed.")
