"""Check whether a text is a palindrome: the same read forwards and backwards."""


def is_palindrome(text):
    """Return True if the letters and digits of a text are a palindrome. Case, spaces and punctuation do not count."""
    characters = [character for character in text.casefold() if character.isalnum()]
    return characters == characters[::-1]


if __name__ == "__main__":
    assert is_palindrome("")
    assert is_palindrome("A man, a plan, a canal: Panama")
    assert is_palindrome("上海自来水来自海上")
    assert not is_palindrome("palindrome")
    for text in ("level", "hello", "Was it a car or a cat I saw?"):
        print(repr(text), "is a palindrome" if is_palindrome(text) else "is not a palindrome")
    print("All checks passed.")
