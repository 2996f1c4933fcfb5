"""The arithmetic of a ring, without any transport: members hand pieces to each other in an order that hypothesis chooses."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from roles.ring.cut import Span, chunks, schedule, segments
from roles.ring.reduction import Part, Reduction
from roles.ring.standing import count_in, together
from roles.rounds.average import WEIGHTS, WeightedSum
from transports.message import ALIGNMENT, TensorSpec

State = dict[str, Tensor]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64)


def update(specs: Mapping[str, TensorSpec], seed: int) -> State:
    """Values of one member."""
    generator = torch.Generator().manual_seed(seed)
    values: State = {}
    for name, spec in specs.items():
        drawn = torch.randint(-50, 50, spec.shape, generator=generator) if spec.dtype != torch.bool else None
        if spec.dtype == torch.uint8 and drawn is not None:
            drawn = drawn.abs()
        real = torch.randn(spec.shape, generator=generator)
        floats = spec.dtype.is_floating_point or spec.dtype.is_complex
        values[name] = (real if floats else real > 0 if drawn is None else drawn).to(spec.dtype)
    return values


def reduce(
    states: Sequence[State], weights: Sequence[int], chunk: int, turns: st.DataObject | None = None
) -> tuple[list[State], list[int]]:
    """The means that the members end with, and how many bytes each has sent."""
    count = len(states)
    specs = {name: TensorSpec(value.dtype, tuple(value.shape)) for name, value in states[0].items()}
    counts = together([{"weight": weight, "samples": weight} for weight in weights])
    totals, members = [], []
    for position, (state, weight) in enumerate(zip(states, weights, strict=True)):
        total = WeightedSum(specs)
        total.add({WEIGHTS: state}, {"weight": float(weight), "samples": weight})
        totals.append(total)
        members.append(Reduction(total, count, position, chunk))
    sent, mail = [0] * count, defaultdict[int, deque[tuple[Part, Tensor]]](deque)

    def send(position: int, part: Part) -> None:
        sent[position] += part.span.nbytes
        mail[(position + 1) % count].append((part, members[position].view(part).clone()))

    for position, member in enumerate(members):
        for part in member.first():
            send(position, part)
    while waiting := [position for position in range(count) if mail[position]]:
        position = waiting[0] if turns is None else turns.draw(st.sampled_from(waiting))
        part, data = mail[position].popleft()
        assert members[position].expects(part.step, part.index, part.span.nbytes)
        following = members[position].take(part.step, part.index, data)
        assert members[position].has(part.step, part.index)
        if following is not None:
            send(position, following)
    assert all(member.complete for member in members)
    for total in totals:
        count_in(total, counts)
    return [total.mean() for total in totals], sent


shapes = st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 9), max_size=3).map(tuple)), min_size=1, max_size=6)


@given(st.data(), shapes, st.integers(1, 9), st.sampled_from([64, 128, 4096]))
def test_a_ring_of_any_number_makes_the_weighted_mean_of_any_entries_at_every_member(
    data: st.DataObject, entries: list[tuple[torch.dtype, tuple[int, ...]]], count: int, chunk: int
) -> None:
    specs = {f"entry-{index}": TensorSpec(*entry) for index, entry in enumerate(entries)}
    weights = data.draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count))
    states = [update(specs, seed) for seed in range(count)]
    means, _ = reduce(states, weights, chunk, data)
    again, _ = reduce(states, weights, chunk)
    for name, spec in specs.items():
        for other in (*means[1:], *again):
            assert torch.equal(other[name], means[0][name])
        if spec.dtype.is_floating_point or spec.dtype.is_complex:
            wide = torch.complex128 if spec.dtype.is_complex else torch.float64
            stacked = torch.stack([state[name].to(wide) for state in states])
            expected = torch.tensordot(torch.tensor(weights, dtype=wide) / sum(weights), stacked, dims=1)
            torch.testing.assert_close(means[0][name].to(wide), expected, rtol=2e-6, atol=2e-6)
        else:
            largest = np.max(np.stack([state[name].numpy() for state in states]), axis=0)
            assert np.array_equal(means[0][name].numpy(), largest)


@given(st.integers(1, 9), st.integers(0, 3000))
def test_each_member_sends_its_share_of_the_buffer(count: int, values: int) -> None:
    states = [{"w": torch.full((values,), float(index))} for index in range(count)]
    _, sent = reduce(states, [1] * count, 256)
    nbytes, exact = 4 * values, Fraction(2 * (count - 1), count)
    assert sum(sent) == 2 * (count - 1) * nbytes
    for each in sent:
        # The cut is at multiples of 64 bytes: each of the 2 (n - 1) segments is off by less than that.
        assert abs(each - exact * nbytes) <= 2 * (count - 1) * ALIGNMENT


def test_a_large_model_of_equal_parts_is_sent_to_the_byte() -> None:
    states = [{"w": torch.randn(8 * 1024)} for _ in range(8)]
    assert reduce(states, [1] * 8, 4096)[1] == [2 * 7 * 4096] * 8


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([64, 192, 4096]))
def test_segments_and_chunks_cover_the_buffer_without_cutting_a_value(nbytes: int, members: int, most: int) -> None:
    cut = segments(nbytes, members)
    assert len(cut) == members
    pieces = [piece for span in cut for piece in chunks(span, most)]
    assert [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
    assert sum(piece.nbytes for piece in pieces) == nbytes
    assert all(piece.start % ALIGNMENT == 0 and 0 < piece.nbytes <= most for piece in pieces)
    sizes = [span.nbytes for span in cut]
    assert max(sizes) - min(sizes) <= 2 * ALIGNMENT


@given(st.integers(1, 12))
def test_what_a_member_sends_is_what_the_next_one_expects(members: int) -> None:
    plans = [list(schedule(members, position)) for position in range(members)]
    assert all(len(steps) == 2 * (members - 1) for steps in plans)
    for position, steps in enumerate(plans):
        following = plans[(position + 1) % members]
        assert [step.send for step in steps] == [step.receive for step in following]
        assert [step.send for step in steps[1:]] == [step.receive for step in steps[:-1]]


def test_a_span_of_nothing_has_no_chunks() -> None:
    assert chunks(Span(64, 64), 64) == []
    assert segments(0, 3) == [Span(0, 0)] * 3
