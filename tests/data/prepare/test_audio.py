"""Recordings become a modality, and damaged ones have no features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.data import read_folder
from mmrec.data.prepare import Fetcher, Tables, audio, check_folder, prepare_folder
from mmrec.data.prepare.audio import open_recording, recording_problem
from mmrec.data.prepare.encoders import make_encoder, parse_model

RATE = 16_000


@pytest.fixture
def soundfile():
    return pytest.importorskip("soundfile")


@pytest.fixture
def tone(soundfile, tmp_path):
    """`tone("a.wav", 440)`: the path of a recording with a frequency."""
    (tmp_path / "audio").mkdir()

    def make(name, frequency, seconds=1.0, rate=RATE, channels=1):
        time = np.arange(int(seconds * rate)) / rate
        wave = 0.5 * np.sin(2 * np.pi * frequency * time)
        path = tmp_path / "audio" / name
        # The left channel has twice the wave, so that the mean of both is the wave.
        soundfile.write(path, wave if channels == 1 else np.c_[2 * wave, 0 * wave], rate)
        return str(path)

    return make


def frequency(samples, rate=RATE):
    return np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)


def test_recordings_become_mono_at_one_rate(tone):
    for name, rate, channels in (("a.wav", 44_100, 1), ("b.flac", 8_000, 2), ("c.ogg", 16_000, 1)):
        samples = open_recording(tone(name, 440, 2, rate, channels), RATE)
        assert samples.dtype == np.float32
        assert len(samples) == 2 * RATE
        assert frequency(samples) == 440
        assert np.abs(samples).max() == pytest.approx(0.5, abs=0.06)


def test_the_beginning_is_read_and_short_ones_are_followed_by_silence(tone):
    samples = open_recording(tone("long.wav", 300, 5), RATE, seconds=2)
    assert len(samples) == 2 * RATE
    short = open_recording(tone("short.wav", 300, 0.25), RATE)
    assert len(short) == RATE
    assert not short[RATE // 4 :].any()
    assert frequency(short[: RATE // 4]) == 300


@pytest.fixture
def damaged(tone, soundfile, tmp_path):
    """Files that are no recordings, and headers that ask for more memory than they deserve."""
    (tmp_path / "audio" / "text.wav").write_text("<html>")
    (tmp_path / "audio" / "empty.mp3").write_bytes(b"")
    soundfile.write(tmp_path / "audio" / "none.wav", np.empty(0), RATE)
    infinite = np.full(RATE, np.inf, dtype=np.float32)
    soundfile.write(tmp_path / "audio" / "inf.wav", infinite, RATE, subtype="FLOAT")
    whole = tmp_path / "audio" / "fast.wav"
    tone("fast.wav", 440)
    header = bytearray(whole.read_bytes())
    header[24:28] = (2**31 - 1).to_bytes(4, "little")  # samples in a second
    whole.write_bytes(header)
    names = ("text.wav", "empty.mp3", "none.wav", "inf.wav", "fast.wav")
    return [str(tmp_path / "audio" / name) for name in names]


def test_damaged_recordings_are_refused(damaged, tone):
    assert recording_problem(tone("whole.wav", 440)) is None
    text, empty, none, infinite, fast = map(recording_problem, damaged)
    assert "not recognised" in text
    assert empty is not None
    assert none == "no samples"
    assert infinite == "samples are not finite"
    assert "2,147,483,647 samples in a second" in fast


def wav2vec(folder):
    """Save a small network of wav2vec 2.0 with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=[8, 8],
        conv_kernel=[10, 8],
        conv_stride=[10, 8],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
    )
    network = transformers.Wav2Vec2Model(config)
    network.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return network.eval()


def whisper(folder):
    """Save a small network with an encoder and a decoder, and random weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        num_mel_bins=4,
        vocab_size=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        max_source_positions=50,
    )
    transformers.WhisperModel(config).save_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor(feature_size=4, chunk_length=1)
    extractor.save_pretrained(folder)


def clap(folder):
    """Save a small network of sounds and texts with random weights."""
    transformers = pytest.importorskip("transformers")
    sound = {"window_size": 4, "spec_size": 64, "num_mel_bins": 16, "depths": [1, 1]}
    sound |= {"patch_embeds_hidden_size": 8, "num_attention_heads": [2, 2], "hidden_size": 16}
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 8, "vocab_size": 16}
    config = transformers.ClapConfig(audio_config=sound, text_config=text, projection_dim=6)
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=RATE,
        max_length_s=1,
        frequency_max=8_000,
        truncation="rand_trunc",
    ).save_pretrained(folder)


def test_features_are_the_mean_over_the_frames(tone, damaged, tmp_path):
    network = wav2vec(tmp_path / "model")
    encoder = make_encoder(parse_model("audio", str(tmp_path / "model"), "float32"))
    paths = [tone(f"{n}.wav", 200 + 100 * n, 1.0 + (n == 2)) for n in range(4)]
    found = encoder.encode([paths[0], *damaged, *paths[1:]])
    assert found.shape == (9, encoder.width) == (9, 8)
    assert np.isnan(found).all(1).tolist() == [False, *[True] * 5, False, False, False]
    for path, row in zip(paths, found[[0, 6, 7, 8]], strict=True):
        samples = torch.from_numpy(open_recording(path, RATE)).double()
        scaled = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
        expected = network(scaled.float()[None]).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, expected.detach(), atol=1e-4)
    half = make_encoder(parse_model("audio", str(tmp_path / "model"), "float16"))
    np.testing.assert_allclose(half.encode(paths), found[[0, 6, 7, 8]], atol=0.1)


@pytest.mark.parametrize(("save", "width"), [(whisper, 8), (clap, 6)])
def test_other_kinds_of_models_encode_the_same_twice(tone, tmp_path, save, width, monkeypatch):
    monkeypatch.setattr(audio, "SECONDS", 2)
    save(tmp_path / "model")
    encoder = make_encoder(parse_model("audio", str(tmp_path / "model"), "float32"))
    paths = [tone(f"{n}.wav", 300 + 200 * n, 3) for n in range(3)]  # longer than the model reads
    found = encoder.encode(paths)
    assert found.shape == (3, encoder.width) == (3, width)
    assert np.isfinite(found).all()
    assert len(np.unique(found.round(5), axis=0)) == 3
    assert np.array_equal(encoder.encode(paths), found)
    np.testing.assert_allclose(encoder.encode(paths[1:2])[0], found[1], atol=1e-5)


def test_a_model_of_texts_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.BertConfig(hidden_size=8).save_pretrained(tmp_path)
    with pytest.raises(SettingError) as error:
        make_encoder(parse_model("audio", str(tmp_path), "float32"))
    assert error.value.setting == "data.audio_model"


def test_recordings_in_a_folder_become_a_modality(tone, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    wav2vec(tmp_path / "model")
    for number in range(3):
        tone(f"i{number}.wav", 200 + 200 * number)
    (tmp_path / "audio" / "i3.mp3").write_text("no recording")
    rows = [f"u{user},i{(user + step) % 5}" for user in range(5) for step in range(4)]
    (tmp_path / "plays.csv").write_text("\n".join(["userID,itemID", *rows]))
    data = Tables(
        name="songs",
        root=str(tmp_path / "sets"),
        interactions=str(tmp_path / "plays.csv"),
        audio=str(tmp_path / "audio"),
        audio_model=str(tmp_path / "model"),
    )
    folder = prepare_folder(data, Fetcher(tmp_path / "downloads"), {})
    manifest = check_folder(folder)
    assert manifest["modalities"]["audio"]["without"] == {"not_found": 1, "corrupt": 1}
    assert manifest["audio_encoder"]["model"] == str(tmp_path / "model")
    assert "i3.mp3 (" in caplog.text
    source = read_folder(folder.parent, "songs")
    present = dict(zip(source.item_ids, source.modalities["audio"].present.tolist(), strict=True))
    assert present == {"i0": True, "i1": True, "i2": True, "i3": False, "i4": False}
