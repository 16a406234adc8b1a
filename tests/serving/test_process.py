"""The command as a process: the page's curl example, a key by environment, and a signal that drains."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from pvit_ext.cli import main
from tests.hosts.tiny_hosts import WIDE
from tests.pages import blocks
from tests.serving.process import process
from tests.serving.served import BOX, QUESTION, image_part, message

PAGE = "docs/serving.md"


@pytest.fixture(scope="module")
def checkpoint(llava_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "with-regions"
    assert main(["swap", str(llava_checkpoint), "--encoder", "osprey", "--encoder-options", '{"layers": [-2]}',
                 "--out", str(folder)]) == 0  # fmt: skip
    return folder


def ask(address: str, key: str = "any", **options: Any) -> Any:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
    messages: Any = [message(image_part(), QUESTION)]
    return client.chat.completions.create(
        model="with-regions", messages=messages, extra_body={"regions": [BOX]}, **options
    )


@pytest.mark.slow
def test_a_signal_drains(checkpoint: Path) -> None:
    with process(checkpoint, "--max-tokens", "400", "--max-batch", "1") as (running, address):
        assert ask(address, max_tokens=1).usage.completion_tokens == 1
        stream = ask(address, max_tokens=400, stream=True)
        begun = next(iter(stream))
        waiting: list[Any] = []
        thread = threading.Thread(target=lambda: waiting.append(ask(address, max_tokens=2)))
        thread.start()
        time.sleep(0.5)
        running.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises((openai.InternalServerError, openai.APIConnectionError)) as error:
            ask(address, max_tokens=1)
        assert getattr(error.value, "status_code", 503) == 503
        rest = list(stream)
        assert (begun.choices[0].delta.role, rest[-1].choices[0].finish_reason) == ("assistant", "length")
        thread.join(60)
        assert waiting[0].usage.completion_tokens == 2
        assert running.wait(60) == 0


def run_block(script: str, folder: Path, key: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-euo", "pipefail", "-c", script]
    env = {**os.environ, "PVIT_EXT_API_KEY": key}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_pages_examples(checkpoint: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    WIDE.resize((400, 300)).save(tmp_path / "dog.png")
    monkeypatch.chdir(tmp_path)
    with process(checkpoint, "--served-name", "stage2", PVIT_EXT_API_KEY="secret") as (running, address):
        capsys.readouterr()
        names: dict[str, Any] = {}
        for block in blocks(PAGE, "python"):
            text = block.replace("http://127.0.0.1:8000", address).replace("the key, or any word", "secret")
            exec(text.replace("secret where none is set", "secret"), names)
            assert names["answer"].choices[0].message.content
        assert capsys.readouterr().out.strip()
        asked = [block.replace("http://127.0.0.1:8000", address) for block in blocks(PAGE, "sh") if "curl" in block]
        found = [run_block(script, tmp_path, "secret") for script in asked]
        assert not any(one.returncode for one in found), found
        assert ['"object":"chat.completion"' in one.stdout for one in found] == [True, False]
        assert '"purpose":"vision"' in found[1].stdout
        assert all("invalid_api_key" in run_block(script, tmp_path, "other").stdout for script in asked)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0


@pytest.mark.parametrize(
    ("line", "variables", "why"),
    [
        ("", {}, "--model"),
        ("--model X --port 70000", {}, "no port"),
        ("--model X --max-batch 0", {}, "no whole number from 1 on"),
        ("--model X --max-choices 9 --max-queue 8", {}, "--max-choices 9 do not fit in --max-queue 8"),
        ("--model X --keep-uploads 0", {}, "no whole number from 1 on"),
        ("--model X --max-uploads many", {}, "no whole number from 1 on"),
        ("--model X --max-upload-size", {}, "expected one argument"),
        ("--model X --timeout soon", {}, "no whole number"),
        ("--model X --image-folder missing", {}, "--image-folder missing is not there"),
        ("--model X", {"PVIT_EXT_API_KEY": " "}, "PVIT_EXT_API_KEY is set and empty"),
        ("--model X --allow-host http://gpu.lan", {}, "'http://gpu.lan' is no name of a host"),
        ("--model X --allow-host gpu.lan:8000", {}, "give it alone, without http:// and port"),
        ("--model X --allow-host *", {}, "'*' is no name of a host"),
        ("--model X --allow-host ''", {}, "'' is no name of a host"),
        ("--model X --allow-host", {}, "expected one argument"),
        ("--model X --allow-host gpu.lan", {"PVIT_EXT_API_KEY": "k"}, "--allow-host gpu.lan: PVIT_EXT_API_KEY is set"),
        ("--model X --host 0.0.0.0 --allow-host gpu.lan", {}, "--host 0.0.0.0 is reachable by others"),
        ("--model missing-folder --port 0", {}, "missing-folder"),
        ("--model X --host 192.0.2.1", {}, "cannot listen on 192.0.2.1, port 8000"),
    ],
)
def test_options_that_are_wrong(line: str, variables: dict[str, str], why: str, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.delenv("PVIT_EXT_API_KEY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    try:
        status = main(["serve", *shlex.split(line)])
    except SystemExit as end:
        status = int(str(end.code))
    assert status == 2
    assert why in capsys.readouterr().err


def test_a_checkpoint_of_another_user_is_said_to_be_that(monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch(0o600)
    monkeypatch.setattr(os, "access", lambda path, mode: os.stat(path).st_mode & 0o004 or Path(path).is_dir())
    assert main(["serve", "--model", str(tmp_path)]) == 2
    assert f"may not read {tmp_path / 'model.safetensors'}; its owner can allow it: chmod" in capsys.readouterr().err


def test_a_port_in_use_is_said_before_a_model_is_loaded(capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--model", "missing-folder", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err


def test_an_open_server_is_warned_of(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.delenv("PVIT_EXT_API_KEY", raising=False)
    assert main(["serve", "--model", "missing-folder", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "0.0.0.0 is reachable by others, and PVIT_EXT_API_KEY is not set" in capsys.readouterr().err


def test_the_whole_of_pillow_is_not_open() -> None:
    from pvit_ext.serving.image_loader import FORMATS

    Image.init()
    assert set(Image.ID) - set(FORMATS) >= {"EPS"}
