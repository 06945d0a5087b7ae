"""Attention blocks against the definition: a token sees its ancestors and itself."""

from __future__ import annotations

import numpy as np
import pytest

from spinevl.data.packing import attention_blocks as module
from spinevl.data.packing.attention_blocks import attention_blocks, contexts
from spinevl.data.packing.prefix_tree import PackedRow, join, pack


def forest(rng: np.random.Generator, n_sequences: int, longest: int) -> PackedRow:
    """Sequences over two symbols share prefixes of every length."""
    sequences = [rng.integers(0, 2, rng.integers(2, longest)).tolist() for _ in range(n_sequences)]
    return pack(sequences, [[(1, len(one))] for one in sequences])


def seen(rows: list[PackedRow], length: int) -> np.ndarray:
    """[B * L, B * L] by walking from every token to its root."""
    result = np.zeros((len(rows) * length,) * 2, dtype=bool)
    for number, row in enumerate(rows):
        for place in range(len(row.symbols)):
            for above in range(place + 1):
                if place < row.subtree_end[above]:
                    result[number * length + place, number * length + above] = True
    return result


@pytest.mark.parametrize("small", [1, 8, 128])
@pytest.mark.parametrize("seed", range(4))
def test_every_token_sees_its_ancestors_once(
    monkeypatch: pytest.MonkeyPatch, seed: int, small: int
) -> None:
    monkeypatch.setattr(module, "SMALL_SUBTREE", small)
    rng = np.random.default_rng(seed)
    rows = [join([forest(rng, 6, 30), forest(rng, 3, 50)]), forest(rng, 9, 20)]
    length = max(len(row.symbols) for row in rows)
    groups, order = attention_blocks(rows, length=length)
    expected = seen(rows, length)
    flat_queries = np.concatenate([group.query.numpy().ravel() for group in groups])
    for place in np.flatnonzero(expected.any(axis=1)):
        assert flat_queries[order[place]] == place
        at = int(order[place])
        for group in groups:
            if at < group.query.numel():
                number, query = divmod(at, group.query.shape[1])
                keys = group.key[number][group.allowed[number, query]].tolist()
                break
            at -= group.query.numel()
        assert sorted(keys) == np.flatnonzero(expected[place]).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_prompts_share_keys_unless_those_of_answers_would_be_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [join([forest(rng, 9, 30), forest(rng, 3, 150)]), forest(rng, 9, 20)]
    length = max(len(row.symbols) for row in rows)
    expected = seen(rows, length)
    last = rng.choice(np.flatnonzero(expected.any(axis=1)), 40).tolist()  # some of them twice
    sharing = []
    for steps in (1, 60, 10**6):
        told: dict[int, list[int]] = {}
        for group in contexts(rows, last, length=length, steps=steps):
            for queries, keys, allowed in zip(group.query, group.key, group.allowed, strict=True):
                own = dict(zip(reversed(queries.tolist()), reversed(allowed), strict=True))
                assert not own.keys() & told.keys()
                told |= {number: sorted(keys[one].tolist()) for number, one in own.items()}
                sharing.append((steps, len(own)))
        assert sorted(told) == list(range(len(last)))
        for number, place in enumerate(last):
            assert told[number] == np.flatnonzero(expected[place]).tolist()
    most = {steps: max(n for s, n in sharing if s == steps) for steps, _ in sharing}
    assert most[1] > most[60] > most[10**6] == 1


@pytest.mark.parametrize(("steps", "sizes"), [(1, [6]), (4, [5, 1]), (7, [2, 2, 2]), (40, [1] * 6)])
def test_as_many_share_keys_as_answers_have_half_of(steps: int, sizes: list[int]) -> None:
    row = pack([[1, 2, 3, 4, n, 0] for n in range(6)], [[(5, 6)]] * 6)  # a block of 10 tokens
    found = contexts([row], [*range(4, 10)], length=10, steps=steps)
    counts = [len(set(one.tolist())) for group in found for one in group.query]
    assert sorted(counts, reverse=True) == sizes


def test_every_query_sees_something_so_that_no_softmax_is_empty() -> None:
    rng = np.random.default_rng(0)
    groups, _ = attention_blocks([forest(rng, 12, 40)], length=400)
    assert all(bool(group.allowed.any(dim=-1).all()) for group in groups)


def test_keys_fill_vector_registers() -> None:
    rng = np.random.default_rng(0)
    groups, _ = attention_blocks([forest(rng, 12, 40), forest(rng, 2, 5)], length=400)
    assert {group.key.shape[1] % 32 for group in groups} == {0}
    assert all(group.allowed.shape == (*group.query.shape, group.key.shape[1]) for group in groups)


def test_blocks_of_a_wide_tree_cost_far_less_than_a_dense_mask() -> None:
    rng = np.random.default_rng(0)
    prefix = rng.integers(0, 1000, 80).tolist()
    sequences = [prefix + rng.integers(0, 1000, 60).tolist() for _ in range(18)]
    row = pack(sequences, [[(1, len(one))] for one in sequences])
    groups, _ = attention_blocks([row], length=len(row.symbols))
    assert sum(group.allowed.numel() for group in groups) < 0.2 * len(row.symbols) ** 2
