"""The command line: argument order, errors, exit status; the model behind it is replaced by a recorder."""

import json

import numpy as np
import pytest
from PIL import Image

import pvit_ext
from pvit_ext import cli
from pvit_ext.cli.ask import QUICKSTART_MODEL
from pvit_ext.cli.options import region_config
from pvit_ext.region_flags import options


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 30)).save(path)
    return str(path)


@pytest.fixture
def asked(monkeypatch):
    """Calls of load_pretrained_model and ask."""
    calls = {}

    def load(path, base=None, device=None, dtype=None):
        calls["load"] = (path, base, device)
        return "tokenizer", "model", "processor", 2048

    def ask(model, tokenizer, processor, queries, max_new_tokens, conv_version, system):
        calls["ask"] = (model, tokenizer, processor, max_new_tokens)
        calls["template"] = (conv_version, system)
        (calls["query"],) = queries
        return ["a cat"]

    monkeypatch.setattr(pvit_ext, "load_pretrained_model", load)
    monkeypatch.setattr(pvit_ext, "ask", ask)
    monkeypatch.setattr("pvit_ext.hosts.loading.check_conv_version", lambda *_: None)
    return calls


def test_regions_keep_their_order_across_kinds(asked, image, tmp_path, capsys):
    pixels = np.zeros((30, 40), dtype=bool)
    pixels[3:5, 7:9] = True
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    arguments = ["--point", "1", "2", "--box", "0", "0", "10", "20", "--mask", str(tmp_path / "mask.png")]
    arguments += ["--polygon", "0,0 5,0 0,5", "--scribble", "1,1 2,2", "--box", "-1", "2", "3", "4.5"]
    question = "Which of " + "<region> " * 6
    assert cli.main(["ask", "--model", "m", "--image", image, *arguments, question]) == 0
    assert capsys.readouterr().out == "a cat\n"
    regions = asked["query"].regions
    assert [region.kind for region in regions] == ["point", "box", "mask", "polygon", "scribble", "box"]
    assert regions[1].points == ((0, 0), (10, 20))
    assert regions[5].points == ((-1, 2), (3, 4.5))
    assert (regions[2].pixels == pixels).all()
    assert asked["query"].text == question
    assert asked["query"].image.size == (40, 30)


def test_options_reach_the_model(asked, image):
    options = ["--base", "b", "--device", "cpu", "--max-new-tokens", "5", "--normalized", "--box", "0", "0", ".5", "1"]
    assert cli.main(["ask", "--model", "m", "--image", image, *options, "What is <region>?"]) == 0
    assert asked["load"] == ("m", "b", "cpu")
    assert asked["ask"] == ("model", "tokenizer", "processor", 5)
    assert asked["template"] == (None, None)
    assert asked["query"].regions[0].normalized


def test_template_and_system_prompt_reach_the_question(asked, image):
    options = ["--conv-version", "chatml_direct", "--system", "Answer in German."]
    assert cli.main(["ask", "--model", "m", "--image", image, *options, "What?"]) == 0
    assert asked["template"] == ("chatml_direct", "Answer in German.")


def test_default_model_is_the_quickstarts(asked, image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ask", "--image", image, "What?"]) == 2
    assert "make quickstart" in capsys.readouterr().err
    (tmp_path / QUICKSTART_MODEL).mkdir(parents=True)
    assert cli.main(["ask", "--image", image, "What?"]) == 0
    assert asked["load"][0] == str(QUICKSTART_MODEL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", "0", "0", "9", "9", "What is this?"], "the question has no <region>"),
        (["--box", "0", "0", "9", "9", "What is <region1>?"], "'<region1>' is text that no encoder reads"),
        (["--box", "50", "0", "60", "9", "What is <region>?"], "outside its image"),
        (["--box", "9", "0", "0", "9", "What is <region>?"], "inverted"),
        (["--box", "nan", "0", "0", "9", "What is <region>?"], "not finite"),
        (["--mask", "missing.png", "What is <region>?"], "missing.png"),
        (["--image", "missing.png", "What?"], "missing.png"),
    ],
)
def test_bad_input_is_one_line_and_loads_no_model(asked, image, capsys, arguments, message):
    given = [] if "--image" in arguments else ["--image", image]
    assert cli.main(["ask", "--model", "m", *given, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pvit-ext: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not asked


def test_answer_is_the_one_of_the_library(loaded, llava_checkpoint, image, tmp_path, capsys):
    tokenizer, model, processor = loaded
    pvit_ext.save_region_modules(model, tmp_path / "modules", base=str(llava_checkpoint))
    query = pvit_ext.Query(image, "What is in <region>?", [pvit_ext.Region.box(2, 3, 20, 25)])
    (expected,) = pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=8)
    arguments = ["--max-new-tokens", "8", "--device", "cpu", "--box", "2", "3", "20", "25", query.text]
    capsys.readouterr()
    assert cli.main(["ask", "--model", str(tmp_path / "modules"), "--image", image, *arguments]) == 0
    assert capsys.readouterr().out == expected + "\n"
    assert expected


def test_a_placeholder_that_nothing_reads_is_one_line(loaded, llava_checkpoint, image, tmp_path, capsys):
    pvit_ext.save_region_modules(loaded[1], tmp_path / "modules", base=str(llava_checkpoint))
    arguments = ["--image", image, "--device", "cpu", "What is <region1>?"]
    assert cli.main(["ask", "--model", str(tmp_path / "modules"), *arguments]) == 2
    assert "error: query 0: '<region1>' in its question is text" in capsys.readouterr().err.splitlines()[-1]


def test_traceback_on_request(image):
    with pytest.raises(ValueError, match="no <region>"):
        cli.main(["--traceback", "ask", "--model", "m", "--image", image, "--point", "1", "1", "What?"])


def test_our_own_bugs_are_not_hidden(asked, image, monkeypatch):
    monkeypatch.setattr(pvit_ext, "ask", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["ask", "--model", "m", "--image", image, "What?"])


@pytest.mark.parametrize("points", ["1,2 3", "1;2", "a,b"])
def test_malformed_polygon(image, capsys, points):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["ask", "--image", image, "--polygon", points, "What is <region>?"])
    assert "is not a list of points" in capsys.readouterr().err


def record(box):
    turns = [{"from": "human", "value": "<image>\nWhat is <region>?"}, {"from": "gpt", "value": "A dog."}]
    return {"id": str(box), "image": "image.png", "conversations": turns, "regions": [box]}


@pytest.mark.usefixtures("image")
def test_data_prints_every_problem(tmp_path, capsys):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([record([0, 0, 9, 9]), record([9, 0, 0, 9]), record([99, 0, 120, 9])]))
    assert cli.main(["data", str(path), "--image-folder", str(tmp_path)]) == 1
    *problems, summary, holds = capsys.readouterr().out.splitlines()
    assert ["inverted" in problems[0], "outside its image" in problems[1]] == [True, True]
    assert summary == f"{path}: 2 problem(s)"
    assert holds.startswith(f"{path}: 1 record,")
    assert cli.main(["data", str(path), "--image-folder", str(tmp_path), "--no-images"]) == 1
    assert capsys.readouterr().out.splitlines()[-2] == f"{path}: 1 problem(s)"


@pytest.mark.usefixtures("image")
def test_good_data(tmp_path, capsys):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([record([0, 0, 9, 9])]))
    assert cli.main(["data", str(path), "--image-folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{path}: no problems"
    assert cli.main(["data", str(tmp_path / "missing.json"), "--image-folder", str(tmp_path)]) == 2


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("words", ["FILE OPTIONS", "OPTIONS FILE", "check FILE OPTIONS", "OPTIONS check FILE"])
def test_data_alone_is_data_check(tmp_path, capsys, words):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([record([0, 0, 9, 9])]))
    values = {"FILE": [str(path)], "OPTIONS": ["--image-folder", str(tmp_path)]}
    line = [word for name in words.split() for word in values.get(name, [name])]
    assert cli.main(["--traceback", "data", *line]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{path}: no problems"


@pytest.mark.parametrize(("word", "near"), [("tag", ": is it tags?"), ("chekc", ": is it check?"), ("xyz", "")])
def test_a_misspelt_subcommand_of_data_is_not_taken_for_a_file(tmp_path, capsys, monkeypatch, word, near):
    monkeypatch.chdir(tmp_path)
    line = ["data", word, "some.json", "--image-folder", ".", "--out", "x", "--tagger", "taggers:good"]
    with pytest.raises(SystemExit):
        cli.main(line)
    listed = "it has cache, check, convert, generate, mix, show, split, tags"
    assert f"no command {word!r} of data; {listed}{near} (and" in capsys.readouterr().err
    (tmp_path / word).write_text("[]")
    assert cli.main(["data", word, "--image-folder", "."]) == 1, "it holds no record"
    assert capsys.readouterr().out.startswith(f"{word} line 1: the file holds no")


def test_data_names_its_subcommands(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["data", "--help"])
    assert "print every problem of a training file" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"pvit-ext {pvit_ext.__version__}\n"


def test_every_option_of_region_modules_is_a_flag_of_swap_and_becomes_the_config():
    parser = cli.build_parser()
    words = ["--encoder", "osprey", "--weights", "w.pth", "--embed-weights", "--projector", "mlp2x_gelu"]
    words += ["--box-embedding", "--cross-layers", "2", "--no-delimiters", "--encoder-options", '{"a": 1}']
    words += ["--lion-adapters", "8", "--lion-tasks", "region,image,box", "--lion-tags", "hint"]
    words += ["--lion-routing", "question", "--lion-aggregator", "added", "--lion-aggregator-depths", "1,0.5"]
    config = region_config(parser.parse_args(["swap", "in", "--out", "out", *words]))
    assert config == pvit_ext.RegionConfig(
        "osprey", "w.pth", True, "mlp2x_gelu", True, 2, False, None, {"a": 1}, 8, "region,image,box", "hint",
        lion_routing="question", lion_aggregator="added", lion_aggregator_depths="1,0.5",
    )  # fmt: skip
    assert {"--" + option.name.replace("_", "-") for option in options()} <= set(words) | {"--delimiters"}
    bare = region_config(parser.parse_args(["swap", "in", "--out", "out", "--encoder", "text"]))
    assert bare == pvit_ext.RegionConfig("text")
    converted = parser.parse_args(["convert-checkpoint", "in", "--out", "out", "--weights", "w.pth"])
    assert region_config(converted) == pvit_ext.RegionConfig(weights="w.pth")


@pytest.mark.parametrize("words", [["--projector", "mlp"], ["--cross-layers", "many"], ["--encoder-options", "[1]"]])
def test_values_that_no_option_takes_are_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.build_parser().parse_args(["swap", "in", "--out", "out", "--encoder", "text", *words])
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("command", ["convert auto a.json", "cache a.json", "generate a.json --model m", "mix a.yaml"])
def test_a_number_of_bad_records_below_zero_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = [] if "mix" in command else ["--image-folder", "images"]
    with pytest.raises(SystemExit):
        cli.main(["data", *command.split(), *folder, "--out", "out", "--max_bad_records", "-1"])
    assert "'-1' is no whole number from 0 on" in capsys.readouterr().err
