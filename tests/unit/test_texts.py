"""Texts of a manifest to tokens: any text gives a row, and what was cut is known."""

from __future__ import annotations

import time

import open_clip
import pytest
import torch

from pipeline.models import texts as texts_module
from pipeline.models.texts import has_text, tokenize_texts

CONTEXT = 16


@pytest.fixture(scope="module")
def tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=CONTEXT)


class PaddedWithItsEnd:
    """As SigLIP's: no start token, and the end token is the padding."""

    context_length = 4

    def __call__(self, texts: list[str], context_length: int = 4) -> torch.Tensor:
        rows = [[ord(one) for one in text.split()][: context_length - 1] for text in texts]
        return torch.tensor([row + [1] * (context_length - len(row)) for row in rows])


@pytest.mark.parametrize(
    "text", [None, "", "  \t\n", "\x00", "\u200b\u200d", "\N{NO-BREAK SPACE}", "\r\n\x07"]
)
def test_what_shows_nothing_is_no_text(
    tokenizer: open_clip.SimpleTokenizer, text: str | None
) -> None:
    assert not has_text(text)
    found = tokenize_texts(tokenizer, [text, "bed"])
    assert found.has_text.tolist() == [False, True]
    assert found.tokens[0].tolist() == tokenizer([""])[0].tolist()


@pytest.mark.parametrize(
    "text",
    [
        "日本語の題名",
        "نص عربي",
        "🏝️👨‍👩‍👧",
        "a\x00b",
        "\ud800 half a pair",
        "<end_of_text>",
        "&lt;b&gt;",
        "ﷺ",
    ],
)
def test_texts_of_any_language_give_tokens_with_an_end(
    tokenizer: open_clip.SimpleTokenizer, text: str
) -> None:
    found = tokenize_texts(tokenizer, [text])
    assert found.has_text.all()
    assert found.tokens.shape == (1, CONTEXT)
    assert tokenizer.eot_token_id in found.tokens[0]


def test_ordinary_texts_get_the_tokens_their_tokenizer_gives_them(
    tokenizer: open_clip.SimpleTokenizer,
) -> None:
    texts = ["a bed", "Red  cotton\nshirt", " ".join(["long"] * 40)]
    assert torch.equal(tokenize_texts(tokenizer, texts).tokens, tokenizer(texts))


def test_a_text_is_cut_where_it_is_longer_than_the_context_and_not_before(
    tokenizer: open_clip.SimpleTokenizer,
) -> None:
    texts = [" ".join(["red"] * count) for count in (1, CONTEXT - 3, CONTEXT - 2, CONTEXT - 1, 99)]
    assert tokenize_texts(tokenizer, texts).was_cut.tolist() == [False, False, False, True, True]
    texts = ["", "a", "a b", "a b c", "a b c d", "a b c d e"]
    cut = tokenize_texts(PaddedWithItsEnd(), texts).was_cut.tolist()
    assert cut == [False, False, False, False, True, True]


def test_a_megabyte_without_a_space_is_cut_and_holds_nobody(
    tokenizer: open_clip.SimpleTokenizer,
) -> None:
    letters = torch.randint(97, 123, (1_000_000,), generator=torch.Generator().manual_seed(0))
    text = "".join(map(chr, letters.tolist()))
    started = time.monotonic()
    found = tokenize_texts(tokenizer, [text])
    assert time.monotonic() - started < 5
    assert found.was_cut.all()
    # the cut by length is nothing the tower could see
    assert torch.equal(found.tokens, tokenizer([text[:2000]]))


def test_the_tokenizers_memory_of_words_is_limited(
    tokenizer: open_clip.SimpleTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts_module, "_MAX_CACHED_WORDS", 5)
    before = tokenize_texts(tokenizer, ["one two three four five six seven"]).tokens
    assert len(tokenizer.cache) == 2
    after = tokenize_texts(tokenizer, ["one two three four five six seven"]).tokens
    assert torch.equal(before, after)
