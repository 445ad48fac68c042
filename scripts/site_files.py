"""A hook of mkdocs: the site also holds the README, the examples and the measurements, which stand outside of docs/.

Links are written as they work in the repository. Here a file or folder outside of docs/ that any page links to becomes
a part of the site, and every link is turned to where its target stands there. A link whose target does not exist stays
as it is, and mkdocs says so. Pages that mkdocs.yml does not name go into the navigation by themselves.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^()\s#]+)(#[^()\s]*)?(\))")
START = "README.md"
ALWAYS = (START, "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md", "benchmarks/README.md")
METHODS = "methods/README.md"
MORE = "More"


def place_in_site(path: str) -> str:
    """Where a file or folder of the repository, by its path from the root, stands in the site."""
    if path == START:
        return "index.md"
    if (ROOT / path).is_dir():
        return f"{path}/index.md"
    return path.removeprefix("docs/")


def place_in_repository(src_uri: str) -> str:
    """The other way round."""
    if src_uri == "index.md":
        return START
    return f"docs/{src_uri}" if (ROOT / "docs" / src_uri).exists() else src_uri


def target_of(link: str, page: str) -> str | None:
    """The path from the root of what a link on a page (its path likewise) leads to; None where there is nothing.

    A folder stands for its README, if it has one.
    """
    if "://" in link or link.startswith(("mailto:", "/")):
        return None
    path = os.path.normpath(PurePosixPath(page).parent / link)
    if (ROOT / path / "README.md").is_file():
        path = os.path.join(path, "README.md")
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def linked(path: str) -> Iterator[str]:
    """What a page links to, or a folder holds."""
    if (ROOT / path).is_dir():
        yield from (f"{path}/{file.name}" for file in sorted((ROOT / path).iterdir()) if file.is_file())
    elif path.endswith(".md"):
        for match in LINK.finditer((ROOT / path).read_text(encoding="utf-8")):
            if (found := target_of(match[2], path)) is not None:
                yield found


def site_file(config: Any, path: str) -> File:
    """A file of the site from one of the repository; of a folder, the list of its files."""
    if not (ROOT / path).is_dir():
        return File.generated(config, place_in_site(path), abs_src_path=str(ROOT / path))
    names = [PurePosixPath(file).name for file in linked(path)]
    listing = "\n".join([f"# {path}", "", *(f"- [{name}]({name})" for name in names)])
    return File.generated(config, place_in_site(path), content=listing)


def on_config(config: Any) -> Any:
    """Put pages that the navigation leaves out into it: methods below their overview, others under "More"."""
    docs = ROOT / "docs"
    pages = [str(page.relative_to(docs)) for page in sorted(docs.rglob("*.md"))]
    named = str(config.nav)
    left = [page for page in pages if f"'{page}'" not in named]
    methods = [page for page in left if page.startswith("methods/")]
    for section in config.nav:
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else ():
                if entry.get("Methods") == METHODS:
                    entry["Methods"] = [METHODS, *methods]
    if others := [page for page in left if page not in methods]:
        config.nav.append({MORE: others})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what pages link to, and what those link to."""
    waiting = [*ALWAYS, *(place_in_repository(file.src_uri) for file in files if file.is_documentation_page())]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        waiting += linked(path)
        if files.get_file_from_path(place_in_site(path)) is None:
            files.append(site_file(config, path))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Turn links to where their targets stand in the site."""
    here = place_in_repository(page.file.src_uri)
    start = PurePosixPath(page.file.src_uri).parent

    def turned(match: re.Match[str]) -> str:
        target = target_of(match[2], here)
        if target is None:
            return match[0]
        return f"{match[1]}{os.path.relpath(place_in_site(target), start)}{match[3] or ''}{match[4]}"

    return LINK.sub(turned, markdown)
