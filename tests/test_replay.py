"""The replay ring: the sequences it draws, what survives a kill, and what is refused."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glam_env.errors import GlamError
from glam_env.training.replay import Replay

PROPERTY = settings(
    deadline=None,
    max_examples=30,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Recorder:
    """Adds numbered steps to a replay and records their ends.

    Frame, action and reward of a step all contain its number and its stream, so that a sampled step
    can be identified.
    """

    def __init__(self, folder, streams, capacity, spare=0):
        self.replay = Replay(folder, streams, capacity, spare)
        self.ends = []  # (streams,) bool for every step added

    def add(self, ends):
        streams, step = self.replay.streams, len(self.ends)
        numbers = 1000 * np.arange(streams) + step
        images = np.zeros((streams, 64, 64, 3), np.uint8)
        images[:, 0, 0, 0], images[:, 0, 0, 1] = step % 256, np.arange(streams)
        ends = np.asarray(ends, bool)
        truncated = ends & (step % 2 == 1)  # either way to end
        self.replay.add(images, numbers, numbers + 0.5, ends, ends & ~truncated, truncated)
        self.ends.append(ends)

    def add_many(self, count, rng, chance):
        for _ in range(count):
            self.add(rng.random(self.replay.streams) < chance)

    def episodes(self):
        """List what counts of each episode as (stream, first, end), by the definition."""
        oldest = max(0, len(self.ends) - self.replay.capacity)
        found = []
        for stream in range(self.replay.streams):
            first = oldest
            for step in range(oldest, len(self.ends)):
                if self.ends[step][stream] or step == len(self.ends) - 1:
                    found.append((stream, first, step + 1))
                    first = step + 1
        return found

    def places(self, length):
        """Map each window that may be drawn, (stream, first, end), to its share of the draws."""
        shares = {}
        for stream, first, end in self.episodes():
            for begin in range(first - length + 1, end):
                window = stream, max(begin, first), min(begin + length, end)
                shares[window] = shares.get(window, 0) + 1
        total = sum(shares.values())
        return {window: count / total for window, count in shares.items()}


def windows_of(batch):
    """Return (stream, first, end) of each sequence, after checking that its steps are in order."""
    numbers = batch.actions
    length = numbers.shape[1]
    count = batch.valid.sum(1)
    assert (count > 0).all()
    assert torch.equal(batch.valid, torch.arange(length) < count[:, None])
    steps = torch.minimum(torch.arange(length), count[:, None] - 1)  # padding repeats the last
    assert torch.equal(numbers, numbers[:, :1] + steps)
    assert torch.equal(batch.rewards, numbers + 0.5)
    assert torch.equal(batch.images[:, :, 0, 0, 0].long(), numbers % 1000 % 256)
    assert torch.equal(batch.images[:, :, 0, 0, 1].long(), numbers // 1000)
    starts = [divmod(int(first), 1000) for first in numbers[:, 0]]
    return [(s, t, t + int(n)) for (s, t), n in zip(starts, count, strict=True)]


def chi_square_is_fair(counts, expected):
    """Compare counts with what is expected of them: within five standard deviations."""
    # n degrees of freedom: mean n, standard deviation √(2n).
    chi_square = (np.square(counts - expected) / expected).sum()
    return chi_square < len(counts) + 5 * np.sqrt(2 * len(counts))


# --- sequences ---------------------------------------------------------------------------


@PROPERTY
@given(
    streams=st.integers(1, 3),
    capacity=st.integers(2, 25),
    spare=st.integers(0, 8),
    steps=st.integers(1, 70),
    length=st.integers(1, 9),
    chance=st.floats(0, 0.5),
    seed=st.integers(0, 999),
)
def test_sequences_cross_no_end_and_no_seam(
    tmp_path_factory, streams, capacity, spare, steps, length, chance, seed
):
    rng = np.random.default_rng(seed)
    recorder = Recorder(tmp_path_factory.mktemp("replay"), streams, capacity, spare)
    recorder.add_many(steps, rng, chance)
    replay, places = recorder.replay, recorder.places(length)
    batch = replay.sample(64, length, rng)
    drawn = windows_of(batch)
    assert set(drawn) <= places.keys()
    for (stream, first, end), life_lost in zip(drawn, batch.life_lost, strict=True):
        ends = [recorder.ends[t][stream] for t in range(first, end)]
        assert life_lost[: len(ends)].tolist() == ends
        assert not any(ends[:-1])

    whole = {
        (stream, t, t + length)
        for stream, first, end in recorder.episodes()
        for t in range(first, end - length + 1)
    }
    if not whole:
        with pytest.raises(GlamError, match=f"no {length} steps in a row"):
            replay.draw_whole(4, length, rng)
        return
    drawn = windows_of(replay.read(replay.draw_whole(64, length, rng)))
    assert set(drawn) <= whole


def test_every_step_is_drawn_equally_often(tmp_path):
    """The last and first steps of an episode too, and those of episodes shorter than a window."""
    length, draws = 6, 40_000
    recorder, rng = Recorder(tmp_path, 2, 40, 3), np.random.default_rng(0)
    recorder.add_many(75, rng, 0.15)
    lengths = [end - first for _, first, end in recorder.episodes()]
    assert min(lengths) < length / 2
    assert max(lengths) > 2 * length

    windows = recorder.replay.draw_windows(draws, length, rng)
    numbers = recorder.replay.take("actions", windows.places)[:, 0].numpy()
    drawn = Counter(
        (number // 1000, number % 1000, number % 1000 + count)
        for number, count in zip(numbers.tolist(), windows.valid.sum(1).tolist(), strict=True)
    )
    places = recorder.places(length)
    counts = np.array([drawn[window] for window in places])
    assert counts.sum() == draws
    assert chi_square_is_fair(counts, draws * np.array(list(places.values())))

    steps = np.zeros((2, 75))
    for (stream, first, end), count in drawn.items():
        steps[stream, first:end] += count
    assert not steps[:, :35].any()  # overwritten
    # Neighbours lie in the same windows, so a step's count varies by √length more than if drawn
    # alone; all are within five such deviations of their common mean.
    mean = steps[:, 35:].mean()
    assert np.abs(steps[:, 35:] - mean).max() < 5 * np.sqrt(length * mean)
    share = sum(n * (b - a) for (_, a, b), n in places.items()) * draws / 80
    assert abs(mean - share) < 0.02 * share


def test_whole_windows_are_drawn_equally_often(tmp_path):
    recorder, rng = Recorder(tmp_path, 2, 20, 3), np.random.default_rng(0)
    recorder.add_many(55, rng, 0.15)
    whole = [(s, t, t + 4) for s, a, b in recorder.episodes() for t in range(a, b - 3)]
    replay = recorder.replay
    drawn = windows_of(replay.read(replay.draw_whole(200 * len(whole), 4, rng)))
    counts = np.array([drawn.count(window) for window in whole])
    assert 10 < len(whole) < 34
    assert counts.sum() == len(drawn)
    assert chi_square_is_fair(counts, np.full(len(whole), 200.0))


def test_the_reward_of_an_episodes_last_step_belongs_to_that_episode(tmp_path):
    recorder = Recorder(tmp_path, 1, 20)
    for step in range(12):
        recorder.add([step == 5])
    batch = recorder.replay.sample(300, 6, np.random.default_rng(0))
    ends = {(begin, end) for _, begin, end in windows_of(batch)}
    assert ends >= {(0, 6), (6, 12), (5, 6), (0, 1), (6, 7), (11, 12)}
    assert not any(begin < 6 < end for begin, end in ends)
    assert (batch.rewards[batch.life_lost & batch.valid] == 5.5).all()


def test_the_usual_reward_is_the_mean_size_of_those_that_are_not_0(tmp_path):
    replay = Replay(tmp_path, streams=2, capacity=3, spare=1)
    no = np.zeros(2, bool)
    for paid in ((900.0, -900.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)):
        replay.add(np.zeros((2, 64, 64, 3), np.uint8), np.zeros(2, int), np.array(paid), no, no, no)
    assert replay.usual_reward() == 1.0  # what is too old to be drawn does not count
    replay.add(
        np.zeros((2, 64, 64, 3), np.uint8), np.zeros(2, int), np.array([-100.0, 50.0]), no, no, no
    )
    assert replay.usual_reward() == 75.0


def test_the_whole_ring_is_one_sequence_at_most(tmp_path):
    recorder, rng = Recorder(tmp_path, 1, 8), np.random.default_rng(0)
    recorder.add_many(21, rng, 0.0)
    replay = recorder.replay
    assert windows_of(replay.read(replay.draw_whole(3, 8, rng))) == [(0, 13, 21)] * 3
    with pytest.raises(GlamError, match="no 9 steps in a row"):
        replay.draw_whole(3, 9, rng)
    assert {end - begin for _, begin, end in windows_of(replay.sample(99, 30, rng))} == set(
        range(1, 9)
    )


def test_an_empty_replay_says_so(tmp_path):
    replay = Replay(tmp_path, 1, 8)
    for draw in (replay.draw_windows, replay.draw_whole):
        with pytest.raises(GlamError, match="collect more random steps"):
            draw(1, 2, np.random.default_rng(0))


def test_single_frames_are_drawn_from_all_steps_that_count(tmp_path):
    recorder, rng = Recorder(tmp_path, 2, 10, 4), np.random.default_rng(0)
    recorder.add_many(33, rng, 0.2)
    images = recorder.replay.sample_images(1000, rng)
    assert images.shape == (1000, 64, 64, 3)
    assert images.dtype == torch.uint8
    seen = {(int(i[0, 0, 1]), int(i[0, 0, 0])) for i in images}
    assert seen == {(stream, step) for stream in (0, 1) for step in range(23, 33)}


def test_length_types_and_device(tmp_path):
    recorder, rng = Recorder(tmp_path, 2, 10, 4), np.random.default_rng(0)
    recorder.add_many(7, rng, 0.0)
    assert len(recorder.replay) == 14
    recorder.add_many(20, rng, 0.0)
    assert len(recorder.replay) == 20
    batch = recorder.replay.sample(3, 5, rng, "cpu")
    dtypes = (torch.uint8, torch.int64, torch.float32, torch.bool, torch.bool)
    assert tuple(tensor.dtype for tensor in batch) == dtypes
    assert batch.images.shape == (3, 5, 64, 64, 3)
    elsewhere = recorder.replay.sample(3, 5, rng, "meta")
    assert {tensor.device.type for tensor in elsewhere} == {"meta"}


def test_a_sample_is_a_copy_and_follows_its_generator(tmp_path):
    recorder = Recorder(tmp_path, 1, 10)
    recorder.add_many(10, np.random.default_rng(0), 0.0)
    batches = [recorder.replay.sample(8, 3, np.random.default_rng(s)) for s in (1, 1, 2)]
    assert windows_of(batches[0]) == windows_of(batches[1]) != windows_of(batches[2])
    batches[0].images.fill_(99)
    assert windows_of(recorder.replay.sample(8, 3, np.random.default_rng(1)))


# --- files and checkpoints ---------------------------------------------------------------


@PROPERTY
@given(
    before=st.integers(1, 60),
    after=st.integers(0, 12),
    capacity=st.integers(2, 20),
    seed=st.integers(0, 99),
)
def test_a_killed_run_finds_its_replay_as_the_checkpoint_left_it(
    tmp_path_factory, before, after, capacity, seed
):
    """Steps added after the checkpoint, up to the spare slots, change nothing."""
    folder, rng = tmp_path_factory.mktemp("replay"), np.random.default_rng(seed)
    recorder = Recorder(folder, 2, capacity, spare=12)
    recorder.add_many(before, rng, 0.1)
    state = recorder.replay.state()
    samples = [np.random.default_rng(5) for _ in range(2)]
    length = 3
    episodes = recorder.episodes()
    expected = recorder.replay.sample(16, length, samples[0])
    known = list(recorder.ends)
    recorder.add_many(after, rng, 0.5)
    recorder.ends = known

    reopened = Replay(folder, 2, capacity, spare=12)
    reopened.load_state(state)
    recorder.replay = reopened
    assert recorder.episodes() == episodes
    batch = reopened.sample(16, length, samples[1])
    assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))
    recorder.add_many(5, rng, 0.1)  # it continues as if it had not been killed
    places = recorder.places(length)
    assert set(windows_of(reopened.sample(32, length, samples[1]))) <= places.keys()


def test_loading_a_state_drops_the_places_of_later_steps(tmp_path):
    recorder, rng = Recorder(tmp_path, 1, 10, spare=10), np.random.default_rng(0)
    recorder.add_many(6, rng, 0.0)
    state = recorder.replay.state()
    recorder.add_many(4, rng, 0.0)
    for last in (10, 6):
        windows = windows_of(recorder.replay.sample(200, 3, rng))
        assert max(end for _, _, end in windows) == last
        recorder.replay.load_state(state)


def test_the_files_outlive_the_process(tmp_path):
    recorder, rng = Recorder(tmp_path / "deep" / "replay", 2, 10, 2), np.random.default_rng(0)
    recorder.add_many(17, rng, 0.2)
    state, places = recorder.replay.state(), recorder.places(3)
    recorder.replay.flush()
    del recorder.replay
    reopened = Replay(tmp_path / "deep" / "replay", 2, 10, 2)
    assert len(reopened) == 0  # nothing counts until a state is loaded
    reopened.load_state(state)
    assert set(windows_of(reopened.sample(50, 3, rng))) <= places.keys()


@pytest.mark.parametrize("shape", [(3, 10, 2), (2, 11, 2), (2, 10, 3)])
def test_files_of_another_shape_are_refused_and_left_alone(tmp_path, shape):
    recorder = Recorder(tmp_path, 2, 10, 2)
    recorder.add([False, True])
    recorder.replay.flush()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(GlamError, match="resume with the run's own settings") as error:
        Replay(tmp_path, *shape)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_of_another_type_are_refused(tmp_path):
    Replay(tmp_path, 2, 10)
    np.save(tmp_path / "rewards.npy", np.zeros((2, 10)))
    with pytest.raises(GlamError, match=r"rewards\.npy holds \(2, 10\) float64"):
        Replay(tmp_path, 2, 10)


@pytest.mark.parametrize("damage", [b"", b"not an array"])
def test_a_torn_file_gets_one_line(tmp_path, damage):
    Replay(tmp_path, 2, 10).flush()
    (tmp_path / "actions.npy").write_bytes(damage)
    with pytest.raises(GlamError, match=r"actions\.npy") as error:
        Replay(tmp_path, 2, 10)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_made_gets_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GlamError, match="cannot be opened"):
        Replay(tmp_path / "file" / "replay", 1, 10)


def test_a_checkpoint_of_another_replay_is_refused(tmp_path):
    state = Replay(tmp_path / "a", 2, 10, 3).state()
    with pytest.raises(GlamError, match="2 streams of 13 steps, this one 1 of 13"):
        Replay(tmp_path / "b", 1, 10, 3).load_state(state)


@pytest.mark.parametrize("sizes", [(0, 10, 0), (1, 1, 0), (1, 10, -1)])
def test_impossible_sizes_are_refused(tmp_path, sizes):
    with pytest.raises(ValueError, match="impossible replay"):
        Replay(tmp_path, *sizes)


def test_a_shortened_file_is_refused_not_padded(tmp_path):
    Replay(tmp_path, 2, 10).flush()
    path = tmp_path / "actions.npy"
    torn = path.read_bytes()[:-8]
    path.write_bytes(torn)
    with pytest.raises(GlamError, match=r"actions\.npy"):
        Replay(tmp_path, 2, 10)
    assert path.read_bytes() == torn
