"""Features of recordings by a model of transformers.

Shape legend: B recordings of a batch, S samples, T frames, F width of the features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import resample_poly
from torch import Tensor

from mmrec.config.text import first_line, printable
from mmrec.data.prepare.encode import Features, Model, device, versions

SUFFIXES = frozenset((".aif", ".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav"))
BATCH = 8
SECONDS = 30  # of a recording that are read, from its beginning
SHORTEST = 1  # seconds; a shorter recording is followed by silence
LARGEST_RATE = 384_000  # samples in a second
MOST_CHANNELS = 16
Samples = npt.NDArray[np.float32]


def open_recording(path: str, rate: int, seconds: float = SECONDS) -> Samples:
    """Decode the beginning of a recording: mono, at a rate.

    Args:
        path: of the file. Its content decides the format.
        rate: samples in a second.
        seconds: that are read.

    Returns:
        [S] samples.

    Raises:
        ValueError: there are no samples, or not all are finite, or the header is not credible.
        RuntimeError: the file is no recording or is damaged.
    """
    import soundfile

    with soundfile.SoundFile(path) as file:
        own = file.samplerate
        if own > LARGEST_RATE or file.channels > MOST_CHANNELS:
            raise ValueError(f"{file.channels} channels of {own:,} samples in a second")
        frames = file.read(math.ceil(seconds * own), dtype="float32", always_2d=True)
    samples = frames.mean(axis=1)
    if not len(samples) or not np.isfinite(samples).all():
        raise ValueError("samples are not finite" if len(samples) else "no samples")
    common = math.gcd(own, rate)
    if own != rate:
        samples = resample_poly(samples, rate // common, own // common)
    samples = samples[: int(seconds * rate)].astype(np.float32)
    return np.pad(samples, (0, max(0, SHORTEST * rate - len(samples))))


def recording_problem(path: str) -> str | None:
    """Return why a recording cannot be decoded; None if it can."""
    try:
        open_recording(path, 16_000)
    except (ValueError, RuntimeError) as error:
        return printable(first_line(error), 200)
    return None


class AudioEncoder:
    """A model of transformers that reads sound, on a GPU if there is one.

    Features are those of a model of sound and text (CLAP), else the mean of the last hidden states
    over the frames, of the encoder if there is also a decoder. Recordings of the same length are
    encoded together, so that there is no padding.

    Args:
        model: on the Hugging Face Hub, or in a folder.

    Raises:
        SettingError: the model cannot be loaded.
    """

    def __init__(self, model: Model) -> None:
        from transformers import AutoFeatureExtractor, AutoModel

        self.name = model.name
        self.device, self.dtype = device(), model.dtype
        extractor: Any = AutoFeatureExtractor
        try:
            self.extractor = extractor.from_pretrained(model.source)
            network: Any = AutoModel.from_pretrained(model.source, trust_remote_code=False)
            self.rate = int(self.extractor.sampling_rate)
        except (OSError, ValueError, ImportError, AttributeError) as error:
            raise model.not_loaded(error) from error
        if network.config.is_encoder_decoder:
            network = network.get_encoder()
        self.network: Any = network.eval().to(self.device, self.dtype)
        # CLAP cuts longer recordings at a random place.
        longest = getattr(self.extractor, "nb_max_samples", SECONDS * self.rate)
        self.seconds = min(SECONDS, longest / self.rate)
        self.width = self._run([np.zeros(SHORTEST * self.rate, dtype=np.float32)]).shape[1]

    @property
    def versions(self) -> Mapping[str, str]:
        return versions(self.network.config, ("transformers", "soundfile", "scipy"))

    def encode(self, items: Sequence[str]) -> Features:
        """Return features [B, F]; the row of a recording that cannot be decoded is NaN."""
        found = np.full((len(items), self.width), np.nan, dtype=np.float32)
        for length, group in groupby(enumerate(self._decoded(items)), lambda pair: len(pair[1])):
            if length:
                pairs = [*group]
                for start in range(0, len(pairs), BATCH):
                    places, samples = zip(*pairs[start : start + BATCH], strict=True)
                    found[[*places]] = self._run(samples)
        return found

    def _decoded(self, items: Sequence[str]) -> Iterator[Samples]:
        """Samples of each recording; none of one that cannot be decoded."""
        for path in items:
            try:
                yield open_recording(path, self.rate, self.seconds)
            except (ValueError, RuntimeError):
                yield np.empty(0, dtype=np.float32)

    @torch.inference_mode()
    def _run(self, samples: Sequence[Samples]) -> Features:
        """Encode samples of the same length, B times [S], as features [B, F]."""
        inputs = self.extractor([*samples], sampling_rate=self.rate, return_tensors="pt")
        if "is_longer" in inputs:  # CLAP draws it at random
            inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
        given: dict[str, Tensor] = {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        if hasattr(self.network, "get_audio_features"):
            features = self.network.get_audio_features(**given).pooler_output
        else:
            features = self.network(**given).last_hidden_state.float().mean(dim=1)  # [B, F]
        found: Features = features.float().cpu().numpy()
        return found
