"""`make docs`: the site is built without a warning, holds all pages and public names, and loads nothing from afar."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import loraweave

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    pytest.importorskip("mkdocs", reason="the documentation's tools are the extra `docs`")
    pytest.importorskip("mkdocstrings", reason="the documentation's tools are the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_in_the_navigation(site):
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        name = name.with_name("index.html") if name.name == "README.html" else name
        assert (site / name).is_file(), f"{page} is no page of the site"
        assert f'href="{name}"' in start, f"{page} is not in the navigation"


def test_every_public_name_has_an_anchor(site):
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    missing = [name for name in loraweave.__all__ if f'id="loraweave.{name}' not in text]
    assert not missing


def test_no_link_within_the_site_is_broken(site):
    for page in site.rglob("*.html"):
        if "md-content" not in (text := page.read_text(encoding="utf-8")) or page.name == "404.html":
            continue  # a report that stands alone; a page for servers, whose links start at their root
        for link in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if "://" in link or link.startswith(("mailto:", "data:")):
                continue
            assert (page.parent / unquote(link)).exists(), f"{page.relative_to(site)} links to {link}"


def test_nothing_is_loaded_from_elsewhere(site):
    for page in [site / "index.html", *(site / "reference").glob("*.html")]:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//[^"]*"', text)
