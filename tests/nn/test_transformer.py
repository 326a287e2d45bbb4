"""The causal Transformer on packed sequences."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from mmrec.config.errors import SettingError
from mmrec.data import History
from mmrec.nn import transformer
from mmrec.nn.transformer import DyT, Transformer, TransformerBlock, dropout, last_rows, layout

LENGTH = torch.tensor([3, 1, 0, 5, 2])
DIM, HEADS = 8, 2


@pytest.fixture
def packed():
    return torch.randn(int(LENGTH.sum()), DIM, generator=torch.Generator().manual_seed(0))


def test_packing_is_the_inverse_of_padding(packed):
    where = layout(LENGTH)
    padded = where.pad(packed)
    assert padded.shape == (5, 5, DIM)
    assert torch.equal(where.pack(padded), packed)
    for row, part in enumerate(torch.split(packed, LENGTH.tolist())):
        assert torch.equal(padded[row, : len(part)], part)
        assert not padded[row, len(part) :].any()


def test_buckets_hold_each_item_once_and_sequences_of_like_length():
    length = torch.tensor([3, 9, 0, 40, 8, 17, 16, 32, 33, 1])
    buckets = layout(length).buckets
    assert torch.equal(torch.cat([items for items, _ in buckets]).sort()[0], torch.arange(159))
    found = [torch.bincount(each.position)[0].item() for _, each in buckets]  # sequences with items
    assert found == [3, 2, 2, 2]
    assert [each.shape for _, each in buckets] == [(4, 8), (2, 16), (2, 32), (2, 40)]
    [(items, whole)] = layout(LENGTH).buckets
    assert items is None
    assert torch.equal(whole.place, layout(LENGTH).place)


@pytest.mark.parametrize("lengths", [LENGTH.tolist(), [3, 20, 0, 9, 8, 33]])
def test_a_block_is_that_of_torch(lengths):
    """PyTorch's own layer, on one sequence at a time."""
    length = torch.tensor(lengths)
    packed = torch.randn(int(length.sum()), DIM, generator=torch.Generator().manual_seed(0))
    block = TransformerBlock(DIM, HEADS, 16, 0.0).eval()
    twin = nn.TransformerEncoderLayer(
        DIM, HEADS, 16, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True
    ).eval()
    for layer in (*block.modules(), *twin.modules()):
        if isinstance(layer, nn.LayerNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    pairs = {
        twin.self_attn.in_proj_weight: block.query_key_value.weight,
        twin.self_attn.in_proj_bias: block.query_key_value.bias,
        twin.self_attn.out_proj.weight: block.out.weight,
        twin.self_attn.out_proj.bias: block.out.bias,
        twin.linear1.weight: block.up.weight,
        twin.linear1.bias: block.up.bias,
        twin.linear2.weight: block.down.weight,
        twin.linear2.bias: block.down.bias,
        twin.norm1.weight: block.attention_norm.weight,
        twin.norm1.bias: block.attention_norm.bias,
        twin.norm2.weight: block.feed_forward_norm.weight,
        twin.norm2.bias: block.feed_forward_norm.bias,
    }
    with torch.no_grad():
        for theirs, ours in pairs.items():
            theirs.copy_(ours)
        found = torch.split(block(packed, layout(length)), lengths)
        for part, ours in zip(torch.split(packed, lengths), found, strict=True):
            if len(part):
                mask = nn.Transformer.generate_square_subsequent_mask(len(part))
                expected = twin(part[None], src_mask=mask, is_causal=True)[0]
                torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def build(**changed):
    torch.manual_seed(0)
    settings = {"max_length": 5, "layers": 2, "heads": HEADS, "inner": 16, "dropout": 0.5}
    return Transformer(DIM, **{**settings, **changed}).eval()


def test_an_output_depends_on_its_own_sequence_up_to_it_and_on_nothing_else(packed):
    model = build()
    before = model(packed, LENGTH)
    changed = packed.clone()
    changed[5] *= -1  # second item of the fourth sequence, which has rows 4 to 8
    different = (model(changed, LENGTH) != before).any(1).nonzero().squeeze(1)
    assert different.tolist() == [5, 6, 7, 8]


def test_positions_count(packed):
    model = build()
    twice = packed[:1].repeat(2, 1)
    out = model(twice, torch.tensor([2]))
    assert not torch.allclose(out[0], out[1])


def test_without_positions_the_order_of_equal_items_does_not_count(packed):
    model = build(max_length=None)
    out = model(packed[:1].repeat(7, 1), torch.tensor([7]))
    torch.testing.assert_close(out, out[:1].expand(7, -1))


def test_dynamic_tanh_is_that_of_its_paper(packed):
    layer = DyT(DIM)
    torch.testing.assert_close(layer(packed), (packed / 2).tanh())
    with torch.no_grad():
        layer.alpha.fill_(-1.5)
        layer.gamma.copy_(torch.arange(DIM))
        layer.beta.fill_(3.0)
    expected = torch.stack([j * (-1.5 * packed[:, j]).tanh() + 3.0 for j in range(DIM)], 1)
    torch.testing.assert_close(layer(packed), expected)


@pytest.mark.parametrize(
    ("norm", "of_input"),
    [
        ("layernorm", lambda x: (x - x.mean(1, True)) / x.std(1, correction=0, keepdim=True)),
        ("dyt", lambda x: (x / 2).tanh()),
        ("none", lambda x: x),
    ],
)
def test_the_input_is_normalized_before_the_blocks(packed, norm, of_input):
    model = build(norm=norm, max_length=None)
    x = of_input(packed)
    for block in model.blocks:
        x = block(x, layout(LENGTH))
    torch.testing.assert_close(model(packed, LENGTH), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(packed, layout(LENGTH)), x, atol=1e-5, rtol=1e-5)


def test_blocks_have_the_norm_that_is_asked_for():
    for norm, kind in (("layernorm", nn.LayerNorm), ("dyt", DyT), ("none", nn.Identity)):
        blocks = build(norm_inside=norm).blocks
        assert all(isinstance(b.attention_norm, kind) for b in blocks)
        assert all(isinstance(b.feed_forward_norm, kind) for b in blocks)


def test_dropout_is_for_training_only(packed):
    model = build()
    assert torch.equal(model(packed, LENGTH), model(packed, LENGTH))
    model.train()
    assert not torch.equal(model(packed, LENGTH), model(packed, LENGTH))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1e-9, 1 - 1e-9])
def test_dropout_keeps_the_mean_and_scales_what_is_left(rate):
    x = torch.ones(50_001, 2, requires_grad=True)
    found = dropout(x, rate)
    left = found != 0
    scale = torch.full((int(left.sum()),), 1 / (1 - rate)).clamp(max=2**16)
    torch.testing.assert_close(found[left], scale, rtol=2e-4, atol=0)
    assert left.float().mean() == pytest.approx(1 - rate, abs=0.01)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, found.detach())


def test_no_dropout_leaves_values_and_the_generator_alone():
    x, state = torch.randn(5), torch.get_rng_state()
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_attention_with_dropout_is_that_of_torch_with_the_same_weights_kept(monkeypatch):
    query, key, value = torch.randn(3, 2, 4, 6, 5).requires_grad_().unbind()
    monkeypatch.setattr(transformer, "dropout", lambda x, _: x)  # keeps all
    found = transformer.causal_attention(query, key, value, 0.5)
    expected = scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(found, expected)
    monkeypatch.setattr(transformer, "dropout", lambda x, rate: x * rate)
    torch.testing.assert_close(transformer.causal_attention(query, key, value, 0.5), 0.5 * expected)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(SettingError) as error:
        build(heads=3)
    assert (error.value.setting, error.value.value) == ("model.heads", 3)


def test_the_last_row_of_an_empty_sequence_is_zero(packed):
    history = History(torch.zeros(len(packed), dtype=torch.int64), LENGTH)
    rows = last_rows(packed, history)
    expected = torch.stack([packed[2], packed[3], torch.zeros(DIM), packed[8], packed[10]])
    assert torch.equal(rows, expected)
