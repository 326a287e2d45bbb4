"""GRU4Rec against the recurrence written out, each sequence alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from mmrec.data import History, InteractionData, Queries
from mmrec.models import GRU4Rec


def build(corpus, **settings):
    torch.manual_seed(0)
    return GRU4Rec(corpus, **{"dim": 6, "hidden": 5, "dropout": 0.0, "max_length": 6, **settings})


def recurrence(model, sequence):
    """States of one sequence by Eq. 1 to 4 of the paper, layer by layer: [L, D]."""
    x = model.item.weight[sequence]
    for layer in range(model.gru.num_layers):
        of_input, of_state = model.gru._flat_weights[2 * layer : 2 * layer + 2]
        state, states = x.new_zeros(model.gru.hidden_size), []
        for row in x:
            reset, update, new = (of_input @ row).chunk(3)
            held_reset, held_update, held_new = (of_state @ state).chunk(3)
            gate = (update + held_update).sigmoid()
            candidate = (new + (reset + held_reset).sigmoid() * held_new).tanh()
            state = (1 - gate) * candidate + gate * state
            states.append(state)
        x = torch.stack(states)
    return x @ model.out.weight.T + model.out.bias


@pytest.mark.parametrize("layers", [1, 2])
def test_states_are_those_of_the_recurrence_whatever_else_is_in_the_batch(checkerboard, layers):
    model = build(checkerboard(), layers=layers).eval()
    sequences = [torch.tensor(x) for x in ([3, 1, 4], [], [1], [5, 9, 2, 6, 5], [])]
    history = History(torch.cat(sequences).long(), torch.tensor([len(x) for x in sequences]))
    expected = torch.cat([recurrence(model, x) for x in sequences if len(x)])
    torch.testing.assert_close(model.read(history, model.encode()), expected)


def test_the_loss_is_the_cross_entropy_of_the_next_items(checkerboard):
    corpus = checkerboard()
    model = build(corpus).eval()
    data = InteractionData()
    data.corpus = corpus
    dataset = data.dataset(model)
    batch = dataset.batch(torch.arange(len(dataset)), torch.Generator())
    by_user, logits, targets = corpus.train.by_user(corpus.n_users), [], []
    for user in range(corpus.n_users):
        sequence = by_user.item[by_user.start[user] : by_user.start[user + 1]][-7:]
        logits.append(recurrence(model, sequence[:-1]) @ model.item.weight.T)
        targets.append(sequence[1:])
    expected = cross_entropy(torch.cat(logits), torch.cat(targets))
    torch.testing.assert_close(model.losses(batch), {"cross_entropy": expected})


@pytest.mark.parametrize("users", [[0], [0, 1], []])
def test_users_without_a_history_score_zero(checkerboard, users):
    model = build(checkerboard()).eval()
    history = History(torch.empty(0).long(), torch.zeros(len(users)).long())
    scores = model.score(model.encode(), Queries(torch.tensor(users).long(), history))
    assert scores.shape == (len(users), model.corpus.n_items)
    assert not scores.any()


def test_dropout_acts_on_inputs_in_training_only(checkerboard):
    model = build(checkerboard(), dropout=0.5)
    history = History(torch.arange(6), torch.tensor([6]))
    once, twice = (model.read(history, model.encode()) for _ in range(2))
    assert not torch.equal(once, twice)
    expected = recurrence(model, history.item)
    torch.testing.assert_close(model.eval().read(history, model.encode()), expected)
