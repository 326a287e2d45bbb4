"""Encoders by the settings that name their models."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mmrec.config.errors import SettingError
from mmrec.data.files import digests
from mmrec.data.prepare.audio import AudioEncoder
from mmrec.data.prepare.base import RawFile
from mmrec.data.prepare.encode import Encoder, Model
from mmrec.data.prepare.images import PairedEncoder, TimmEncoder
from mmrec.data.prepare.texts import PairedTextEncoder, SentenceEncoder


@dataclass(frozen=True)
class Library:
    """What loads a kind of model.

    Attributes:
        packages: that must be installed.
        extra: of mmrec, which installs it.
        encoder: class of encoders.
    """

    packages: Sequence[str]
    extra: str
    encoder: Callable[[Model], Encoder]


LIBRARIES: Mapping[str, Mapping[str, Library]] = {
    "text": {
        "": Library(["sentence_transformers"], "text", SentenceEncoder),
        "clip": Library(["transformers"], "text", PairedTextEncoder),
        "siglip": Library(["transformers"], "text", PairedTextEncoder),
    },
    "image": {
        "timm": Library(["timm"], "image", TimmEncoder),
        "clip": Library(["transformers"], "image", PairedEncoder),
        "siglip": Library(["transformers"], "image", PairedEncoder),
    },
    "audio": {"": Library(["transformers", "soundfile"], "audio", AudioEncoder)},
}  # by modality, and the part of the setting before a colon


def make_encoder(model: Model) -> Encoder:
    """Load a model.

    Raises:
        SettingError: it cannot be loaded.
    """
    return _library(model).encoder(model)


def parse_model(modality: str, value: str, precision: str) -> Model:
    """Read the setting `data.<modality>_model`.

    Args:
        modality: `text`, `image` or `audio`.
        value: of the setting.
        precision: name of a dtype.

    Raises:
        SettingError: no library has such a prefix.
    """
    kinds = LIBRARIES[modality]
    setting = f"data.{modality}_model"
    kind, _, name = value.partition(":")
    if "" in kinds and kind not in kinds:
        kind, name = "", value
    if kind not in kinds or not name:
        raise SettingError(
            setting=setting,
            value=value,
            expected=f"{' or '.join(f'{kind}:NAME' for kind in kinds)}, a name or a folder",
        )
    return Model(setting, value, kind, name, precision)


def check_model(model: Model) -> dict[str, RawFile]:
    """Check that an encoder can be made, before anything is downloaded.

    Returns:
        The files of a folder, by role.

    Raises:
        SettingError: a package is missing, or there is no such folder.
    """
    library = _library(model)
    for package in library.packages:
        if importlib.util.find_spec(package) is None:
            raise SettingError(
                setting=model.setting,
                value=model.value,
                problem=f"it needs the package {package}",
                hint=f"pip install 'mmrec[{library.extra}]', or set it to null",
            )
    if model.folder is None:
        if model.name.startswith((".", "/", "~")) or model.name.count("/") > 1:
            raise SettingError(
                setting=model.setting, value=model.value, problem="there is no such folder"
            )
        return {}
    paths = sorted(path for path in model.folder.rglob("*") if path.is_file())
    found = digests(paths)
    role = model.setting.removeprefix("data.")
    return {
        f"{role}/{path.relative_to(model.folder)}": RawFile(path, found[path]) for path in paths
    }


def _library(model: Model) -> Library:
    modality = model.setting.removeprefix("data.").removesuffix("_model")
    return LIBRARIES[modality][model.kind]
