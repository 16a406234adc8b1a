"""Pages of the site that live elsewhere in the repository, so that each text exists once."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "add_your_encoder.py": "examples/add_your_encoder.py",
    "changelog.md": "CHANGELOG.md",
    "comparison/index.md": "examples/compare/README.md",
    "comparison/results.csv": "examples/compare/results.csv",
    "comparison/results.png": "examples/compare/results.png",
    "contributing.md": "CONTRIBUTING.md",
    "lion/lion.png": "examples/lion/results/lion.png",
    "lion/metrics.json": "examples/lion/results/metrics.json",
    "lion/photographs/lion.png": "examples/lion/results/photographs/lion.png",
    "lion/photographs/metrics.json": "examples/lion/results/photographs/metrics.json",
    "patches.md": "patches/README.md",
    "photographs/answers.png": "examples/photographs/results/answers.png",
    "photographs/aquarium/confusion.png": "examples/photographs/results/aquarium/confusion.png",
    "photographs/aquarium/metrics.json": "examples/photographs/results/aquarium/metrics.json",
    "photographs/bccd/metrics.json": "examples/photographs/results/bccd/metrics.json",
    "photographs/coco256/metrics.json": "examples/photographs/results/coco256/metrics.json",
    "photographs/confusion.png": "examples/photographs/results/confusion.png",
    "photographs/metrics.json": "examples/photographs/results/metrics.json",
    "resume-matrix.md": "recipes/RESUME.md",
    "scenes.png": "examples/quickstart/scenes.png",
}
"""Address in the site -> file of the repository."""


def on_files(files: Files, config: Any) -> Files:
    """Add the files of :data:`ELSEWHERE`."""
    for address, source in ELSEWHERE.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that hold in the repository, as its host shows it, to the addresses of the site."""
    address = page.file.src_uri
    source = ELSEWHERE.get(address, f"docs/{address}")
    addresses = {value: key for key, value in ELSEWHERE.items()}

    def turned(match: re.Match[str]) -> str:
        path, hash_sign, anchor = match[1].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        found = target.removeprefix("docs/") if target.startswith("docs/") else addresses.get(target)
        if found is None:
            return match[0]
        return f"]({posixpath.relpath(found, posixpath.dirname(address) or '.')}{hash_sign}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", turned, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name what they refer to in Sphinx's way; a reader of the site gets the name alone."""
    return re.sub(
        r":(?:func|meth|class|attr|data|mod):<code>~?(?:pvit_ext\.(?:\w+\.)*)?([^<]+)</code>", r"<code>\1</code>", html
    )
