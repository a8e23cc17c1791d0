"""Tests of the board on the small tables of the report's tests: which results it shows, and what its pages hold."""

import base64
import hashlib
import http.client
import importlib.util
import json
import math
import re
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.board import gathering, pages, serving, site
from harness.board.rows import file_of
from harness.cli.commands import main

spec = importlib.util.spec_from_file_location("small_tables", Path(__file__).parents[1] / "report" / "test_page.py")
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)

EVIL = "<script>alert(1)</script>/../é\u2028'\""
CHECKPOINTS = {f"lab/m@step{step}": (step / 20_000, step / 10_000) for step in (1000, 2000, 4000, 8000, 16000)}
_NO_TUNING = dict.fromkeys(("tuning_step", "tuning_seed", "tuning_tokens"))


def write_run(out, brain, run="later-1", started="2026-09-01T10:00:00+00:00", **changes):
    """Another run, of brain scores alone; `changes` are made to each row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "RUN", run)
        small.put(out, "model_scores", [{**row, **changes} for row in small.model_scores(brain)])
        small.put(out, "model_properties", [{**row, **_NO_TUNING} for row in small.properties()])
    small.put(out, "runs", [small.run_row(run, started)])
    return str(out)


@pytest.fixture
def first(tmp_path):
    return small.write_tables(tmp_path / "first")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The site of two OUTs: one has checkpoints of a training, a model with a hostile name, and a newer tiny-llama."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        for name in (*CHECKPOINTS, EVIL):
            patch.setitem(small.MODELS, name, ("llama", 10**8))
        first = small.write_tables(folder / "first")
        newer = {**CHECKPOINTS, EVIL: (0.5, 0.5), "tiny-llama": (0.7, 0.71), "length": (0.09, 0.12)}
        later = write_run(folder / "later", newer)
        site.write([first, later, str(folder / "none")], str(folder / "site"))
    return folder / "site"


def parsed(file):
    return small.Page(Path(file).read_text(encoding="utf-8"))


def data_of(file):
    """The data that a page's script lists, as a frame of one row per score."""
    text = Path(file).read_text(encoding="utf-8")
    (block,) = re.findall(r'<script type="application/json" id="rows">(.*?)</script>', text, re.DOTALL)
    content = json.loads(block)
    columns = {
        name: [value["texts"][k] for k in value["rows"]] if isinstance(value, dict) else value
        for name, value in content.items() if name not in ("n", "pages")
    }  # fmt: skip
    frame = pd.DataFrame(columns)
    frame["page"] = [content["pages"][k] for k in content["source"]["rows"]]
    assert len(frame) == content["n"]
    return frame


def only(rows, **values):
    for name, value in values.items():
        rows = rows[rows[name] == value]
    (row,) = rows.to_dict("records")
    return row


# --- which results ----------------------------------------------------------------------------------------------------


def test_the_newest_run_counts_and_earlier_ones_are_kept(first, tmp_path):
    later = write_run(tmp_path / "later", {"tiny-llama": (0.5, 0.4)})
    gathered = gathering.gather([later, first])  # in whatever order they are given
    rows = gathered.newest
    llama = only(rows, model="tiny-llama", dataset="synthetic", protocol="strict")
    assert (llama["r"], llama["out"], llama["run"], llama["n_earlier"]) == (0.5, later, "later-1", 1)
    replaced = only(gathered.earlier, model="tiny-llama", protocol="strict")
    assert (replaced["r"], replaced["out"], replaced["run"]) == (0.612, first, small.RUN)
    # what only the older run has stays
    assert only(rows, model="tiny-gpt2", dataset="synthetic", protocol="strict")["r"] == 0.401
    assert not rows.duplicated(gathering.KEYS).any()
    assert len(gathered.newest) + len(gathered.earlier) == len(gathering.gather([first]).newest) + 2


def test_a_board_has_every_result_of_the_tables(first):
    rows = gathering.gather([first]).newest
    for model, by_protocol in small.BRAIN.items():
        for protocol, r in zip(("strict", "paper"), by_protocol, strict=True):
            row = only(rows, model=model, dataset="synthetic", protocol=protocol)
            np.testing.assert_equal((row["r"], row["ceiling"]), (r, 0.793))
    gain = only(rows, model="tiny-gpt2", dataset="futrell2018-2021", measure="Δ log-likelihood")
    assert (gain["r"], gain["protocol"]) == (0.412 / 20, "strict")
    assert math.isnan(gain["ceiling"])  # that of r is none of the gain
    assert (
        only(rows, model="frequency", dataset="futrell2018-2021", protocol="paper", measure="Pearson r")["r"] == -0.287
    )


def test_the_same_folder_twice_is_read_once(first):
    twice = gathering.gather([first, first + "/"])
    assert twice.earlier.empty
    assert len(twice.runs) == 1


def test_a_run_that_is_not_finished_is_left_out(first, tmp_path):
    small.put(
        first, "model_scores", [{**row, "run": "halfway"} for row in small.model_scores({"tiny-llama": (0.9, 0.9)})]
    )
    assert (
        only(gathering.gather([first]).newest, model="tiny-llama", dataset="synthetic", protocol="strict")["r"] == 0.612
    )


def test_outs_that_cannot_be_read_are_named_and_the_others_go_on(first, tmp_path):
    old = write_run(tmp_path / "old", {"tiny-gpt2": (0.3, 0.3)}, "old-1", kind=None)
    strange = write_run(tmp_path / "strange", {"tiny-gpt2": (0.3, 0.3)}, "strange-1", protocol="lenient")
    empty = tmp_path / "empty"
    small.put(empty, "runs", [small.run_row()])
    (tmp_path / "broken" / "tables" / "runs" / "run=x").mkdir(parents=True)
    (tmp_path / "broken" / "tables" / "runs" / "run=x" / "part-0.parquet").write_bytes(b"PAR1 no")
    outs = [str(tmp_path / name) for name in ("missing", "broken")]
    gathered = gathering.gather([*outs, str(empty), old, strange, first])
    said = {problem.out: problem.message for problem in gathered.problems}
    assert set(said) == {*outs, str(empty), old, strange}
    assert "no tables under" in said[outs[0]]
    assert "run old-1 is of another version: its scores lack kind. Run its command again." in said[old]
    assert "protocols that this version does not know: lenient" in said[strange]
    assert "no finished run with scores" in said[str(empty)]
    assert set(gathered.newest["out"]) == {first}


def test_a_column_of_a_later_version_that_an_older_file_lacks_is_unknown(first):
    """Unique variance was added to model_scores; a file without it is shown with an en dash."""
    import pyarrow.parquet as pq

    for file in Path(first).glob("tables/model_scores/**/*.parquet"):
        table = pq.read_table(file, partitioning=None)
        pq.write_table(table.drop_columns(["unique_r2", "unique_low", "unique_high", "r_mad"]), file)
    rows = gathering.gather([first]).newest
    row = only(rows, model="tiny-llama", dataset="synthetic", protocol="strict")
    assert row["r"] == 0.612
    assert math.isnan(row["unique_r2"])


def test_without_any_score_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"no scores to show.*none: no tables under"):
        site.write([str(tmp_path / "none")], str(tmp_path / "site"))
    assert list(tmp_path.iterdir()) == []


# --- pages ------------------------------------------------------------------------------------------------------------


def test_links_lead_to_pages_of_the_site_and_every_page_is_reached(trained):
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*.html")}
    reached, waiting = set(), ["index.html"]
    while waiting:
        file = waiting.pop()
        if file in reached or not file.endswith(".html"):
            continue
        reached.add(file)
        path = trained / file
        links = [link["href"] for link in parsed(path).all("a") if not link["href"].startswith("#")]
        links += list(data_of(path)["page"]) if 'id="rows"' in path.read_text() else []
        for link in links:
            target = (path.parent / link).resolve()
            assert target.is_file(), (file, link)
            waiting.append(target.relative_to(trained.resolve()).as_posix())
    assert reached == files
    assert len(files) == 1 + 3 + len(small.BRAIN) - 3 + 1 + len(CHECKPOINTS) + 1 + 1  # frequency; variants share a page


def test_pages_load_nothing_and_run_only_their_own_script(trained):
    for path in trained.rglob("*.html"):
        text, page = path.read_text(encoding="utf-8"), parsed(path)
        assert not [tag for tag, _, _ in page.elements if tag in {"link", "img", "iframe", "object", "embed", "use"}]
        assert not [names for _, names, _ in page.elements if {"src", "srcset", "data", "xlink:href"} & set(names)]
        assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text)
        (policy,) = [meta["content"] for meta in page.all("meta") if "default-src" in (meta.get("content") or "")]
        (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert policy == (
            f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
            "form-action 'none'"
        )
        assert {script.get("type") for script in page.all("script")} <= {None, "application/json"}


def test_hostile_names_are_text_and_safe_file_names(trained):
    for path in trained.rglob("*.html"):
        assert re.fullmatch(r"[A-Za-z0-9_-]+\.html", path.name)
        text = path.read_text(encoding="utf-8")
        assert "<script>alert" not in text
    own = trained / file_of("models", EVIL)
    assert EVIL in " ".join(parsed(own).words)
    row = only(data_of(trained / "index.html"), source=EVIL, protocol="STRICT", measure="Pearson r")
    assert row["page"] == file_of("models", EVIL)
    assert file_of("models", "GPT2").lower() != file_of("models", "gpt2").lower()
    assert len(Path(file_of("models", "x" * 500)).name) < 80


def test_scores_stand_beside_interval_and_ceiling_and_controls_are_marked(trained):
    rows = data_of(trained / "index.html")
    row = only(rows, source="tiny-llama", dataset="synthetic", protocol="STRICT")
    assert (row["score"], row["low"], row["high"], row["ceiling"]) == (0.7, 0.66, 0.735, 0.793)
    assert row["ratio"] == round(0.7 / 0.793, 4)
    assert (row["mark"], row["label"], row["earlier"]) == ("model", "model", 1)
    assert row["run"] == f"later-1 in {trained.parent}/later"
    synthetic = rows[(rows["dataset"] == "synthetic") & (rows["measure"] == "Pearson r")]
    assert only(synthetic, protocol="STRICT", label="highest control")["source"] == "length"
    assert only(synthetic, protocol="PAPER", label="highest control")["source"] == "oasm"
    reading = only(rows, dataset="futrell2018-2016", protocol="PAPER", label="highest control")
    assert reading["source"] == "length"  # |r| 0.326, above the 0.287 of frequency
    untrained = only(synthetic, source="tiny-gpt2:untrained", protocol="STRICT")
    assert (untrained["mark"], untrained["label"]) == ("variant", "untrained")
    assert untrained["page"] == only(synthetic, source="tiny-gpt2", protocol="STRICT")["page"]
    assert math.isnan(only(synthetic, source="word-rate", protocol="STRICT")["score"])
    headings = [cell["data-column"] for cell in parsed(trained / "index.html").all("th") if "data-column" in cell]
    assert headings[:4] == ["source", "score", "low", "ceiling"]  # what a phone shows
    assert set(headings) - {"plot"} <= set(rows.columns)


def test_the_first_table_has_the_highest_model_of_each_data_set(trained):
    text = parsed(trained / "index.html").text
    assert "synthetic STRICT 0.800 0.760 to 0.835 0.793 1.01 lab/m@step16000 length 0.090 10" in text
    assert "synthetic PAPER 1.600 1.560 to 1.635 0.793 2.02 lab/m@step16000 oasm 0.701 10" in text
    assert f"Not shown : {trained.parent}/none: no tables under" in text
    assert "10 models on 3 data sets under STRICT, PAPER, from 2 runs in 2 folders." in text


def test_a_model_page_has_its_variants_its_earlier_results_and_their_run(trained):
    text = parsed(trained / file_of("models", "tiny-llama")).text
    assert "Family llama" in text
    newest, _, earlier = text.split("Results of earlier runs, which newer ones replaced: 2")  # summary and caption
    assert "synthetic STRICT 0.700 0.660 to 0.735 0.793 0.88 length 0.090 decoder.3 bootstrap over 5 subjects" in newest
    assert f"later-1 2026-09-01 10:00 {trained.parent}/later" in newest
    assert "tiny-llama:untrained (untrained)" in newest
    assert "synthetic STRICT (tiny-llama) 0.612 0.572 to 0.647 0.793 0.77 decoder.3" in earlier
    assert f"{small.RUN} 2026-08-01 10:00 {trained.parent}/first" in earlier


def test_trainings_have_a_page_with_their_checkpoints_in_order(trained):
    page = parsed(trained / file_of("trainings", "lab/m"))
    steps = re.findall(r"STRICT, step ([\d,]+) (\d\.\d{3})", page.text)
    expected = [(f"{int(name.rpartition('step')[2]):,}", f"{r[0]:.3f}") for name, r in CHECKPOINTS.items()]
    assert steps == expected
    assert [svg["data-protocol"] for svg in page.all("svg")] == ["strict", "paper"]
    dataset = parsed(trained / file_of("datasets", "synthetic"))
    assert len(dataset.all("svg")) == 4  # scores and training
    own = parsed(trained / file_of("models", "lab/m@step1000")).all("a")
    assert "../" + file_of("trainings", "lab/m") in [link["href"] for link in own]


def test_different_versions_and_settings_are_pointed_out(first, tmp_path):
    later = write_run(tmp_path / "later", {"tiny-t5": (0.5, 0.4)}, dataset_version="other", protocol_hash="0123")
    site.write([first, later], str(tmp_path / "site"))
    text = parsed(tmp_path / "site" / file_of("datasets", "synthetic")).text
    assert "Runs used different versions of this data set; their scores are not comparable." in text
    assert "settings differ between runs: their scores are not comparable" in text
    other = parsed(tmp_path / "site" / file_of("datasets", "futrell2018-2016")).text
    assert "not comparable" not in other


def test_the_csv_file_has_all_results_and_no_formulas(first, tmp_path):
    later = write_run(tmp_path / "later", {"tiny-llama": (0.5, 0.4), "=cmd()": (0.1, 0.1)})
    site.write([first, later], str(tmp_path / "site"))
    rows = pd.read_csv(tmp_path / "site" / "scores.csv")
    llama = rows[(rows["model"] == "tiny-llama") & (rows["dataset"] == "synthetic") & (rows["protocol"] == "strict")]
    assert dict(zip(llama["is_newest"], llama["r"], strict=True)) == {True: 0.5, False: 0.612}
    assert "'=cmd()" in set(rows["model"])


def test_a_page_of_many_models_stays_light(tmp_path, monkeypatch):
    many = {f"lab/model-{k:03}": (0.3 + k / 1000, 0.4) for k in range(300)}
    for name in many:
        monkeypatch.setitem(small.MODELS, name, ("x", 10))
    monkeypatch.setattr(site, "all_pages", lambda board: [pages.index(board)])
    out = write_run(tmp_path / "out", many)
    site.write([out], str(tmp_path / "site"))
    file = tmp_path / "site" / "index.html"
    assert len(data_of(file)) == 600
    assert len(parsed(file).elements) < 250  # rows are made by the script, a hundred at a time
    assert file.stat().st_size < 35_000 + 600 * 110


# --- the folder, the server, the command ------------------------------------------------------------------------------


def test_an_earlier_board_is_replaced_and_other_folders_are_not(first, tmp_path):
    target = tmp_path / "site"
    page, problems = site.write([first], str(target))
    assert (page, problems) == (str(target / "index.html"), ())
    before = {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    (target / "models" / "gone.html").write_text("of a model that is no longer there")
    site.write([first], str(target))
    assert {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    with pytest.raises(ValueError, match="holds other files"):
        site.write([first], first)
    assert (Path(first) / "tables").is_dir()
    with pytest.raises(ValueError, match="local folder is wanted"):
        site.write([first], "s3://bucket/site")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "site"]


def test_the_server_is_for_this_machine_and_shows_only_pages(trained):
    with serving.server(str(trained)) as server:
        assert server.server_address[0] == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def get(path, host=f"127.0.0.1:{server.server_port}"):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read()

        assert get("/") == (200, (trained / "index.html").read_bytes())
        assert get("/models/")[0] == 404
        assert get("/../../etc/passwd")[0] == 404
        assert get("/", "attacker.example:80")[0] == 403
        server.shutdown()


def test_the_command_writes_a_site_and_says_what_is_not_shown(first, tmp_path, capsys):
    assert main(["board", first, "--out", str(tmp_path / "site"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(tmp_path / "site" / "index.html"), "not_shown": []}
    assert main(["board", first, str(tmp_path / "none"), "--out", str(tmp_path / "site"), "--json"]) == 1
    (lacking,) = json.loads(capsys.readouterr().out)["not_shown"]
    assert lacking["out"] == str(tmp_path / "none")
    assert main(["board", first]) == 2
    assert "--out SITE" in capsys.readouterr().err
