"""YAML of a stranger is read as OmegaConf reads it, or refused at once by file and line."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from omegaconf import OmegaConf

from mmrec.config.yaml_file import BYTES, YamlFileError, read_yaml


@pytest.mark.parametrize(
    "text",
    [
        "a: 1e-3\nb: 1.0e-05\nc: .5\nd: -.inf\ne: 1_000\nf: 0x1f\ng: 1:30\nh: 010",
        "a: 2026-11-30\nb: 2026-11-30 10:00:00\nc: '1e-3'\nd: \"é\\n\"",
        "a: [1, null, ~, true, on, 'null']\nb: {c: {}, d: []}\n1: x",
        "a: |\n  two\n  lines\nb: >-\n  folded\n  text\n",
    ],
)
def test_values_are_those_that_omegaconf_reads(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert read_yaml(path) == OmegaConf.to_container(OmegaConf.load(path))


def test_what_omegaconf_writes_is_read_back(composed, tmp_path):
    config = composed("model=magnet", "optimizer.lr=1e-5", "+data.corrupt.visual=1e-3")
    plain = OmegaConf.to_container(config, resolve=False)
    OmegaConf.save(OmegaConf.create(plain), tmp_path / "config.yaml")
    assert read_yaml(tmp_path / "config.yaml") == plain


BILLION = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}]\n" for before, name in pairwise("abcdefghijklmnop")
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BILLION, "line 1: anchors and aliases"),
        ("a: 1\nb: *a", "line 2: anchors and aliases"),
        ("a: {<<: {b: 1}}", "line 1: merge keys"),
        ("[" * 20_000, "nested more than"),
        ("a: " + "{a: [" * 10_000, "nested more than"),
        ("- " * 20_000, "nested more than"),
        ("a:\n  b: !!set {c}", "line 2: the tag"),
        ("a: !!timestamp 2026-11-30", "the tag"),
        ("a: !!binary aGk=", "the tag"),
        ("a: !!python/object/apply:os.system [id]", "the tag"),
        ("a: !mine 1", "the tag"),
        ("a: 1\na: 2", "line 2: duplicate key a"),
        ("? [1, 2]\n: 3", "a key must be plain text"),
        ("a: " + "9" * 5000, "a number of more than"),
        ("a: " + "1:" * 9000 + "1", "a number of more than"),
        ("a: " + "x" * 30_000, "more than 20000 characters"),
        ("a: [" + "1," * 200_000 + "1]", "more than 100000 values"),
        ("a" * (BYTES + 1), "larger than 1 MiB"),
        ("--- 1\n--- 2", "single document"),
        ("a: \x1b[31m", "control characters|unacceptable"),
        ("a: [", "cannot be read"),
        ("a: =", "cannot be read"),
    ],
)
def test_everything_else_is_refused_at_once(text, said, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    begun = time.perf_counter()
    with pytest.raises(YamlFileError, match=said) as refused:
        read_yaml(path)
    assert time.perf_counter() - begun < 2
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 500
    assert "\n" not in str(refused.value)


def test_bytes_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(YamlFileError, match=r"config\.yaml cannot be read"):
        read_yaml(path)
