"""The check of the chapter Start: each typical mistake has its own diagnosis."""

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.show.pictures import color_tokens
from tinygpt.tales import the_tokenizer

TEXT = "Ada saw an extraordinary lighthouse. It was dark!"


@checks
def longest_token(answer):
    "The exercise: of the tokens of a text, the one with the most characters."
    tok = the_tokenizer()

    def expected(text: str) -> list[str]:
        tokens = [tok.decode([id]) for id in tok.encode(text)]
        return [token for token in tokens if len(token) == max(map(len, tokens))]

    def drawn(text: str):
        return color_tokens([tok.decode([id]) for id in tok.encode(text)])

    for text in TEXT, "Once upon a time", "a", "Solzi of Yonbo, Solzi of Yonbo":
        got = attempt(answer, text, expect=(str, int, list, bytes))
        said, tokens = f"{call(answer, text)} returned {got!r}.", expected(text)
        if isinstance(got, int):
            what = "an id" if got in tok.encode(text) else "a number"
            raise Finding(f"It returned {what}, but the text of the token is wanted: tok.decode([id]). {said}")
        if isinstance(got, list):
            raise Finding(f"It returned a list. Return one token, as a string. {said}")
        if isinstance(got, bytes):
            raise Finding(f"It returned bytes. Return a string: tok.decode([id]). {said}")
        if got in tokens:
            continue
        if got.strip() in map(str.strip, tokens):
            raise Finding(f"The space before a word belongs to its token, and you removed it. {said}", drawn(text))
        if got in text.split() and got not in [tok.decode([id]) for id in tok.encode(text)]:
            raise Finding(f"That is the longest word, but a long word consists of several tokens. {said}", drawn(text))
        if got == text:
            raise Finding(f"That is the whole text, which has more than one token. {said}", drawn(text))
        if got not in text:
            raise Finding(f"That token does not occur in the text. {said}", drawn(text))
        raise Finding(f"The text has a token with more characters. {said}", drawn(text))
    return "You have solved an exercise. All the others are checked in the same way."
