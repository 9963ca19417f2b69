"""A picture's own queries: several banks mixed by its CLS, and a bank that reads its CLIP tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import Dedos, build_model, freeze
from dedos_deploy.model.cost import model_cost
from dedos_deploy.model.picture_queries import MixedQueries, QueryGate, ReadQueries, mix
from dedos_deploy.model.proxy_queries import ProxyQueries
from dedos_deploy.model.query_reader import ClipReader
from dedos_deploy.model.refinement import Refinement
from dedos_deploy.presets import ModelConfig, QuerySource

from .conftest import frames, lively, micro_config, unit_rows
from .test_equations import close, f64, gelu_np, layer_norm_np, linear_np, randn, softmax_np

SETS = 3


def config(source: QuerySource, **changes: object) -> ModelConfig:
    return micro_config(query_source=source, query_sets=SETS if source == "mixed" else 1, **changes)


def made(source: QuerySource) -> Dedos:
    return lively(build_model(config(source), seed=3))


def refinement() -> Refinement:
    torch.manual_seed(0)
    refine = Refinement(5, 7, norm=True)
    torch.nn.init.normal_(refine.fuse.weight)
    torch.nn.init.normal_(refine.fuse.bias)
    return refine


def refined_np(refine: Refinement, f: np.ndarray, q: np.ndarray) -> np.ndarray:
    hidden = gelu_np(linear_np(refine.mlp[0], q))  # type: ignore[arg-type]
    q_hat = linear_np(refine.mlp[2], hidden)  # type: ignore[arg-type]
    mixed = softmax_np(layer_norm_np(f) @ q_hat.T / np.sqrt(7)) @ q_hat
    return linear_np(refine.fuse, np.concatenate([mixed, f], -1))


def test_a_gate_weighs_the_banks_by_the_cls_of_every_block() -> None:
    refine, gate = refinement(), QueryGate(7, SETS)
    torch.nn.init.normal_(gate.logits.weight)
    torch.nn.init.normal_(gate.logits.bias)
    sets, x = randn(SETS, 4, 5), randn(2, 10, 7, seed=1)
    asked = MixedQueries(gate, refine, sets)
    found = asked.tokens(x, asked.q_hat)
    queries = asked.queries()
    for picture, tokens in enumerate(f64(x)):
        g = softmax_np(linear_np(gate.logits, layer_norm_np(tokens[0])))
        # Q̂ is the mean of what the MLP makes of each set, for which no set is needed but the mean.
        hats = [
            linear_np(refine.mlp[2], gelu_np(linear_np(refine.mlp[0], one)))  # type: ignore[arg-type]
            for one in f64(sets)
        ]
        q_hat = sum(weight * hat for weight, hat in zip(g, hats, strict=True))
        f = tokens[1:]
        mixed = softmax_np(layer_norm_np(f) @ q_hat.T / np.sqrt(7)) @ q_hat
        close(found[picture, 1:], linear_np(refine.fuse, np.concatenate([mixed, f], -1)))
        close(queries[picture], np.tensordot(g, f64(sets), 1))
    assert torch.equal(found[:, 0], x[:, 0])


def test_folded_banks_compute_the_same() -> None:
    refine, sets, features = refinement(), randn(SETS, 4, 5), randn(2, 9, 7, seed=1)
    weights = randn(2, SETS, seed=2).softmax(-1)
    q_hat = refine.q_hat(sets)
    folded = refine.folded_sets(q_hat)
    torch.testing.assert_close(
        folded(features, weights), refine(features, mix(weights, q_hat)), atol=1e-5, rtol=1e-4
    )


def test_split_refinement_computes_the_same() -> None:
    refine, proxy, features = refinement(), randn(2, 4, 5), randn(2, 9, 7, seed=1)
    split = refine.split()
    found = split(features, split.q_hat(proxy))
    for picture in range(2):
        close(found[picture], refined_np(refine, f64(features[picture]), f64(proxy[picture])))


def test_queries_read_the_tokens_of_every_refined_block() -> None:
    refine = refinement()
    reader = ClipReader(7, 5)
    for weight in (reader.move.weight, reader.move.bias, reader.value.weight):
        torch.nn.init.normal_(weight)
    bank, blocks = randn(4, 5), [randn(1, 10, 7, seed=seed) for seed in (1, 2)]
    asked = ReadQueries(reader, refine, bank, None)
    q = f64(bank)
    for block in blocks:
        found = asked.tokens(block, None)
        f = f64(block)[0, 1:]
        tokens = layer_norm_np(f)
        logits = (linear_np(reader.query, q) @ linear_np(reader.key, tokens).T) / np.sqrt(5)
        q = q + softmax_np(logits) @ linear_np(reader.value, tokens)
        q = q + linear_np(reader.move, q)
        close(asked.read[-1][0], q)
        close(found[0, 1:], refined_np(refine, f, q))
    close(asked.queries()[0], q)


def test_queries_of_the_picture_are_used_as_they_are() -> None:
    reader, refine = ClipReader(7, 5), refinement()
    own, bank, x = randn(2, 4, 5, seed=4), randn(4, 5), randn(2, 10, 7)
    left_out = ReadQueries(reader, refine, own, None)
    taught = ReadQueries(reader, refine, own, bank)
    for asked in (left_out, taught):
        expected = refine(x[:, 1:], refine.q_hat(own))
        assert torch.equal(asked.tokens(x, asked.q_hat)[:, 1:], expected)
        assert torch.equal(asked.queries(), own)
    assert not left_out.read and len(taught.read) == 1


@pytest.mark.parametrize("source", ["mixed", "clip"])
def test_frozen_is_the_same_function(source: QuerySource) -> None:
    model, image = made(source), frames(2, (32, 48))
    text, valid = unit_rows(5, 20), torch.ones(5)
    with torch.no_grad():
        expected = model(image, text, valid)
        frozen = freeze(model, size_hw=(32, 48))
        torch.testing.assert_close(frozen(image, text, valid), expected, atol=1e-4, rtol=1e-3)
        # Pictures do not look at each other.
        alone = model(image[:1], text, valid)
    torch.testing.assert_close(alone, expected[:1], atol=1e-5, rtol=1e-4)
    assert model.proxy_queries().shape == ((SETS, 6, 16) if source == "mixed" else (6, 16))


@pytest.mark.parametrize("source", ["mixed", "clip"])
def test_another_picture_has_other_queries(source: QuerySource) -> None:
    model = made(source)
    with torch.no_grad():
        first, second = model.image_features(frames(2, (32, 48))).proxy
    assert not torch.allclose(first, second, atol=1e-4)


def test_a_gate_starts_with_all_banks_alike() -> None:
    queries = ProxyQueries((3, 4), (2, 2), 3, sets=SETS)
    assert queries.stage_queries().shape == (SETS, 3, 6, 8) and queries().shape == (SETS, 6, 8)
    one = torch.kron(queries.basic_kernel[1], queries.diffusion_kernels[2])
    assert torch.equal(queries.stage_queries()[1, 2], one)
    weights = QueryGate(7, SETS)(randn(2, 7))
    torch.testing.assert_close(weights, torch.full((2, SETS), 1 / SETS))


def test_what_they_cost() -> None:
    rows = {
        source: model_cost(config(source), size_hw=(32, 48), slots=5)
        for source in ("bank", "mixed", "clip")
    }
    bank = rows["bank"]
    n, c, wide, blocks, patches = 6, 16, 24, 2, 24
    # Banks: the gate, keys and values of every block, and the decoder's Q.
    more = blocks * (wide * SETS + 2 * SETS * n * wide) + SETS * n * c
    assert rows["mixed"].macs == bank.macs + more
    kernels = (SETS - 1) * 3 * 4
    assert rows["mixed"].parameters_trained == bank.parameters_trained + kernels + SETS * (wide + 1)
    # Reading: W_Q, W_K, two products with the tokens, W_V, the map of Eq. 5; then the MLP and Q̂ W_a
    # live, for which S (Q̂ W_a) of the folded form stays.
    read = n * (c * c + 2 * c * wide + 2 * patches * wide + c * c)
    live = n * (c * c + c * wide + wide * wide)
    assert rows["clip"].macs == bank.macs + blocks * (read + live)
    reader = 2 * c * wide + 2 * c * c + c
    assert rows["clip"].parameters_trained == bank.parameters_trained + reader
    # All of it has a part to its name but the decoder's Q of several banks.
    for source, row in rows.items():
        rest = bank.macs - sum(bank.macs_by_part.values())
        unnamed = SETS * n * c if source == "mixed" else 0
        assert row.macs - sum(row.macs_by_part.values()) == rest + unnamed


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"query_source": "mixed"}, "query_sets is 1 with query_source mixed; `mixed` has 2"),
        ({"query_sets": 2}, "query_sets is 2 with query_source bank"),
        ({"query_source": "clip", "refine_blocks": ()}, "makes queries at refined blocks"),
    ],
)
def test_configurations_that_contradict(changes: dict[str, object], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        micro_config(**changes)
