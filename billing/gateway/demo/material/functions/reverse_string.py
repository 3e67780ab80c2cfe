"""Reverse a string."""


def reverse_string(text):
    """Return the characters of a text in the opposite order."""
    return text[::-1]


if __name__ == "__main__":
    assert reverse_string("") == ""
    assert reverse_string("abc") == "cba"
    assert reverse_string("你好") == "好你"
    assert reverse_string(reverse_string("Hello, world!")) == "Hello, world!"
    print("Hello, world! ->", reverse_string("Hello, world!"))
    print("All checks passed.")
