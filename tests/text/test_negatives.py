from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedos_deploy.text.negatives import close_similarity, negatives


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_close_words_are_left_out_and_order_is_kept() -> None:
    # Cosines with the user's word: 1, 0.9, 0.8, 0.
    angles = np.arccos([1.0, 0.9, 0.8, 0.0])
    base = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    words = ["car", "truck", "bus", "sky"]
    assert negatives(base[:1], words, base, limit=9, similarity=0.85) == [2, 3]
    assert negatives(base[:1], words, base, limit=9, similarity=0.95) == [1, 2, 3]
    assert negatives(base[[0, 3]], words, base, limit=9, similarity=0.85) == [2]
    assert negatives(base[:1], words, base, limit=1, similarity=0.85) == [2]
    assert negatives(base[:1], words, base, limit=0) == []


def test_equal_words_are_left_out_whatever_their_embedding() -> None:
    rows = np.eye(4, dtype=np.float32)
    words = ["Traffic  Light", "sky", "road"]
    assert negatives(rows[3:], words, rows[:3], limit=9, user_words=["traffic light"]) == [1, 2]


def test_no_user_words_or_no_base() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert negatives(rows[:0], ["a", "b", "c"], rows, limit=2) == [0, 1]
    assert negatives(rows, [], rows[:0], limit=2) == []


@pytest.mark.parametrize("shared", [0.0, 1.0, 3.0])
def test_closeness_follows_the_space(shared: float) -> None:
    """A direction that all words share lifts every cosine, and must not change the choice."""
    rng = np.random.default_rng(3)
    own = rng.normal(size=(40, 64)) / 8.0
    own[1] = own[0] + 0.2 * rng.normal(size=64) / 8.0
    base = unit(np.concatenate([own, np.full((40, 1), shared)], axis=1))
    words = [str(index) for index in range(40)]
    assert negatives(base[:1], words, base, limit=99) == list(range(2, 40))
    assert 0.4 < close_similarity(base) < 1.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 30), st.integers(0, 40))
def test_properties(seed: int, users: int, words: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    user, base = unit(rng.normal(size=(users, 4))), unit(rng.normal(size=(words, 4)))
    names = [str(index) for index in range(words)]
    chosen = negatives(user, names, base, limit=limit, similarity=0.7)
    assert len(chosen) <= limit and chosen == sorted(set(chosen))
    far = [i for i in range(words) if all(float(base[i] @ row) < 0.7 for row in user)]
    assert chosen == far[:limit]


@pytest.mark.parametrize("count", [1, 7, 8, 30])
def test_a_users_own_word_is_never_a_negative(count: int) -> None:
    base = unit(np.random.default_rng(count).normal(size=(count, 16)))
    words = [str(index) for index in range(count)]
    for index in range(count):
        assert index not in negatives(base[index : index + 1], words, base, limit=99)
    same = np.repeat(base[:1], count, axis=0)
    assert negatives(base[:1], words, same, limit=99) == []
