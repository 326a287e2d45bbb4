"""The pages on tables and on retrieval: their code runs, and finds what the run ranks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmrec import fit
from mmrec.commands.export import export

DOCS = Path(__file__).resolve().parents[1] / "docs"
FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def code(page, *titles):
    """Python code of the sections of a page with these titles."""
    text = (DOCS / page).read_text()
    parts = (re.search(rf"^## {t}\n.*?(?=^## |\Z)", text, re.M | re.S)[0] for t in titles)
    return "\n".join(block for part in parts for block in FENCED.findall(part))


def test_tables_are_trained_on_and_the_run_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code("python.md", "From tables to recommendations", "Ask a run"), names)
    assert [*tmp_path.glob("outputs/magnet/shop/*/result.json")]
    assert names["vectors"].score == "pair"
    assert {*names["only"]["item_id"]} <= {"a1", "a2", "a3"}
    assert {*names["similar"]["item_id"]} == {"a3"}
    assert "Article" in capsys.readouterr().out


def test_pairs_are_judged(capsys):
    exec(code("python.md", "Judge scores of any model"), {})
    assert 0 <= float(re.search(r"tensor\(([\d.]+)", capsys.readouterr().out)[1]) <= 1


@pytest.fixture(scope="module")
def retrieved(tmp_path_factory):
    """A run in a working directory, its vectors there, and what the page on retrieval defines."""
    folder = tmp_path_factory.mktemp("working")
    tiny = {"data.world.users": 60, "data.world.items": 60, "trainer.max_epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = fit(run_dir="outputs/first", settings={**tiny, "trainer.enable_progress_bar": False})
        export(run="outputs/first", output="vectors")
        names = {}
        exec(code("retrieval.md", "With NumPy"), names)
    return folder, run, names


def test_vectors_retrieve_what_the_run_recommends(retrieved):
    _, run, names = retrieved
    lists = run.recommend([7, 9], 10, seen="none")
    for user in (7, 9):
        expected = lists.filter(user_id=user)["item_id"].to_list()
        assert names["retrieve"](user, 10)["item_id"].to_list() == expected
    assert expected[0] not in names["retrieve"](9, 10, seen=expected[:1])["item"].to_list()


def test_an_index_retrieves_the_same(retrieved, monkeypatch):
    pytest.importorskip("faiss")
    folder, _, names = retrieved
    monkeypatch.chdir(folder)
    export(run="outputs/first", output="indexed", index="faiss")
    exec(code("retrieval.md", "With an index"), names)
    assert names["rows"][0].tolist() == names["retrieve"](7, 10)["item"].to_list()
