"""The site of pages and reference: built without a warning, no dead link, and its search finds things in a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
# Each of these names is documented: what `import hf_dinoseg` offers.
OFFERED = ("train", "evaluate", "check", "Segmenter", "LabelSpace", "DinoSegTrainer", "DinoSegForSemanticSegmentation")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs the extra dev")
    folder = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


class _Page(HTMLParser):
    """Links of a page, and the places in it that links may name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.places |= {str(values[name]) for name in ("id", "name") if values.get(name)}
        for name in ("href", "src"):
            if values.get(name) and tag in ("a", "img", "link", "script"):
                self.links.add(str(values[name]))


def test_no_link_is_dead(site: Path) -> None:
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 30
    dead, followed = [], 0
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            followed += 1
            if not target.is_file() or url.fragment and unquote(url.fragment) not in pages[target].places:
                dead.append(f"{path.relative_to(site)}: {link}")
    assert not dead and followed > 500, dead[:20]


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?(?:https?:)?//[^>]*', text), path


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    places = _Page((site / "reference" / "hf_dinoseg.html").read_text(encoding="utf-8")).places
    assert not [name for name in OFFERED if not any(place.endswith(f".{name}") for place in places)]
    assert "void" in (site / "reference" / "hf_dinoseg.html").read_text(encoding="utf-8")


def test_search_finds_the_field_that_everybody_asks_for(
    site: Path, browser: Any, request: pytest.FixtureRequest
) -> None:
    """Served as any folder is, and without network."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    request.addfinalizer(server.shutdown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.get(f"http://127.0.0.1:{server.server_port}/index.html")
    browser.execute_script("document.querySelector('label[for=__search]').click()")
    wait = WebDriverWait(browser, 30)
    field = browser.find_element(By.CSS_SELECTOR, "input.md-search__input")
    wait.until(lambda b: field.is_displayed() and field == b.switch_to.active_element)
    field.send_keys("reduce_zero_label")
    found = wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "a.md-search-result__link"))
    links = [link.get_attribute("href").partition("?")[0] for link in found]
    assert any(link.endswith("/docs/labels.html") for link in links), links
    browser.get(next(link for link in links if link.endswith("/docs/labels.html")))
    assert "reduce_zero_label" in browser.find_element(By.TAG_NAME, "main").text
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
